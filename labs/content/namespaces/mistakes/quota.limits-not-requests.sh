kubectl -n team-a create quota budget --hard=limits.cpu=500m,limits.memory=256Mi,pods=8
