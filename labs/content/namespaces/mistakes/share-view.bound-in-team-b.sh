kubectl -n team-b create serviceaccount auditor
kubectl -n team-b create rolebinding auditor-view --clusterrole=view --serviceaccount=team-b:auditor
