kubectl -n mtls-app create serviceaccount shopper
kubectl -n mtls-app set serviceaccount deployment client shopper
kubectl -n mtls-app set serviceaccount deployment httpbin shopper
