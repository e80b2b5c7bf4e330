kubectl -n team-b create quota budget --hard=requests.cpu=500m,requests.memory=256Mi,pods=8
