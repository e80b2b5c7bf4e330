kubectl label --overwrite namespace mtls-app istio-injection=true
kubectl -n mtls-app rollout restart deployment
