kubectl apply -f - <<'YAML'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: way-out, namespace: team-a}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
    - to:
        - namespaceSelector: {matchLabels: {team: b}}
          podSelector: {matchLabels: {app: web}}
      ports:
        - {protocol: TCP, port: 8080}
YAML
