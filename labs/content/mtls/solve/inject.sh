kubectl label --overwrite namespace mtls-app istio-injection=enabled
kubectl -n mtls-app rollout restart deployment
for d in httpbin billing client; do
  kubectl -n mtls-app rollout status deployment "$d" --timeout=60s
done
