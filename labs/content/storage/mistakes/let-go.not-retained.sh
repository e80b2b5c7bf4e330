kubectl -n storage delete pod/clerk pvc/ledger
kubectl -n storage delete pod/first pod/second pvc/single
