kubectl -n team-b create serviceaccount auditor
kubectl -n team-a create rolebinding auditor-view --clusterrole=view --serviceaccount=team-a:auditor
