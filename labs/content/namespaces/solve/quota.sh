kubectl apply -f - <<'YAML'
apiVersion: v1
kind: ResourceQuota
metadata: {name: budget, namespace: team-a}
spec:
  hard:
    requests.cpu: 500m
    requests.memory: 256Mi
    pods: "8"
YAML
