kubectl -n storage wait pod/clerk --for=condition=Ready --timeout=60s
kubectl -n storage delete pod/clerk pvc/ledger
kubectl -n storage delete pod/first pod/second pvc/single
