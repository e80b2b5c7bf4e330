kubectl apply -f - <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: writer, namespace: storage}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers:
    - name: writer
      image: ropes.local/app:v1
      args: [sh, -c, 'rm -f /data/note; echo "writer $(date -u +%Y-%m-%dT%H:%M:%SZ)" > /note']
      resources: {requests: {cpu: 10m, memory: 16Mi}}
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: shelf-claim}}]
YAML
kubectl -n storage wait pod/writer --for=jsonpath='{.status.phase}'=Succeeded --timeout=60s
kubectl -n storage delete pod writer --ignore-not-found
kubectl apply -f - <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: reader, namespace: storage}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: reader
      image: ropes.local/app:v1
      args: [sleep, infinity]
      resources: {requests: {cpu: 10m, memory: 16Mi}}
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: shelf-claim}}]
YAML
