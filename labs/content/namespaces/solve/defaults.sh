kubectl apply -f - <<'YAML'
apiVersion: v1
kind: LimitRange
metadata: {name: defaults, namespace: team-a}
spec:
  limits:
    - type: Container
      defaultRequest: {cpu: 20m, memory: 16Mi}
      default: {cpu: 200m, memory: 64Mi}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: report, namespace: team-a, labels: {app: report}}
spec:
  replicas: 2
  selector: {matchLabels: {app: report}}
  template:
    metadata: {labels: {app: report}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: report
          image: ropes.local/app:v1
          args: [sleep, infinity]
YAML
