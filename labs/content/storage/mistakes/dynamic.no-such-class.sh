kubectl apply -f - <<'YAML'
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: ledger, namespace: storage}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: standart
  resources: {requests: {storage: 100Mi}}
YAML
kubectl apply -f - <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: clerk, namespace: storage}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: clerk
      image: ropes.local/app:v1
      args: [sleep, infinity]
      resources: {requests: {cpu: 10m, memory: 16Mi}}
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: ledger}}]
YAML
