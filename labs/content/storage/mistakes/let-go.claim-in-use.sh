kubectl -n storage wait pod/clerk --for=condition=Ready --timeout=60s
pv=$(kubectl -n storage get pvc ledger -o jsonpath='{.spec.volumeName}')
kubectl patch pv "$pv" -p '{"metadata":{"labels":{"ropes.dev/lab":"storage"}},"spec":{"persistentVolumeReclaimPolicy":"Retain"}}'
kubectl -n storage delete pvc ledger --wait=false
