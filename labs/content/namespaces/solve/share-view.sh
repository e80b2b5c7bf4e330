kubectl apply -f - <<'YAML'
apiVersion: v1
kind: ServiceAccount
metadata: {name: auditor, namespace: team-b}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: auditor-view, namespace: team-a}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects:
  - {kind: ServiceAccount, name: auditor, namespace: team-b}
YAML
