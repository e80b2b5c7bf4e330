kubectl -n mtls-app create serviceaccount shopper --dry-run=client -o yaml | kubectl apply -f -
kubectl -n mtls-app set serviceaccount deployment client shopper
kubectl -n mtls-app rollout status deployment client --timeout=60s
