kubectl -n team-b create serviceaccount auditor
kubectl create clusterrolebinding auditor-view --clusterrole=view --serviceaccount=team-b:auditor
