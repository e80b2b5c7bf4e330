kubectl -n team-a create quota budget --hard=requests.cpu=500,requests.memory=256Mi,pods=8
