kubectl label --overwrite namespace mtls-app mtls-legacy istio-injection=enabled
kubectl -n mtls-app rollout restart deployment
kubectl -n mtls-legacy rollout restart deployment
