kubectl apply -f - <<'YAML'
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: permissive, namespace: mtls-app}
spec:
  mtls: {mode: PERMISSIVE}
YAML
