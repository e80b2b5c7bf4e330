kubectl -n mtls-app create serviceaccount shopper
