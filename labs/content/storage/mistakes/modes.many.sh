kubectl apply -f - <<'YAML'
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: single, namespace: storage}
spec:
  accessModes: [ReadWriteMany]
  resources: {requests: {storage: 100Mi}}
YAML
kubectl apply -f - <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: first, namespace: storage}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: first
      image: ropes.local/app:v1
      args: [sleep, infinity]
      resources: {requests: {cpu: 10m, memory: 16Mi}}
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: single}}]
YAML
kubectl apply -f - <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: second, namespace: storage}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: second
      image: ropes.local/app:v1
      args: [sleep, infinity]
      resources: {requests: {cpu: 10m, memory: 16Mi}}
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: single}}]
YAML
