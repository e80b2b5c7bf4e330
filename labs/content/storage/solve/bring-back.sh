pv=$(kubectl get pv -l ropes.dev/lab=storage -o jsonpath='{range .items[?(@.status.phase=="Released")]}{.metadata.name}{"\n"}{end}' | head -n 1)
kubectl patch pv "$pv" --type=json -p '[{"op":"remove","path":"/spec/claimRef"}]'
kubectl apply -f - <<YAML
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: ledger-restored, namespace: storage}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: standard
  volumeName: $pv
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
  volumes: [{name: data, persistentVolumeClaim: {claimName: ledger-restored}}]
YAML
