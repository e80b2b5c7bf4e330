kubectl -n storage wait pod/clerk --for=condition=Ready --timeout=60s
# A reset may have made the volume anew, and then it is empty.
kubectl -n storage exec clerk -- sh -c 'grep -q balance /data/ledger 2>/dev/null || echo "opening balance 100" > /data/ledger'
pv=$(kubectl -n storage get pvc ledger -o jsonpath='{.spec.volumeName}')
kubectl patch pv "$pv" -p '{"metadata":{"labels":{"ropes.dev/lab":"storage"}},"spec":{"persistentVolumeReclaimPolicy":"Retain"}}'
kubectl -n storage delete pod/clerk pvc/ledger
kubectl -n storage delete pod/first pod/second pvc/single --ignore-not-found
