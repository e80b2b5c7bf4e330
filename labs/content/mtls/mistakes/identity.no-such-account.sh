kubectl -n mtls-app set serviceaccount deployment client shopper
