kubectl apply -f - <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: shelf, labels: {ropes.dev/lab: storage}}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  hostPath: {path: /var/local/ropes-shelf, type: DirectoryOrCreate}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions:
            - {key: kubernetes.io/hostname, operator: In, values: [worker-1]}
YAML
