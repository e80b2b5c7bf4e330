node=$(kubectl get nodes -l '!node-role.kubernetes.io/control-plane' -o jsonpath='{.items[0].metadata.labels.kubernetes\.io/hostname}')
kubectl apply -f - <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: shelf, labels: {ropes.dev/lab: storage}}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  hostPath: {path: /var/local/ropes-shelf, type: DirectoryOrCreate}
  persistentVolumeReclaimPolicy: Delete
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions:
            - {key: kubernetes.io/hostname, operator: In, values: [$node]}
YAML
