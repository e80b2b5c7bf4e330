kubectl apply -f - <<'YAML'
apiVersion: v1
kind: Namespace
metadata:
  name: team-a
  labels: {team: a}
---
apiVersion: v1
kind: Namespace
metadata:
  name: team-b
  labels: {team: b}
YAML
