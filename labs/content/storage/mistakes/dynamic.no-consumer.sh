kubectl apply -f - <<'YAML'
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: ledger, namespace: storage}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 100Mi}}
YAML
