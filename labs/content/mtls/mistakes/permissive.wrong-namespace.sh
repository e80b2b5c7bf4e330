kubectl apply -f - <<'YAML'
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: mtls-legacy}
spec:
  mtls: {mode: PERMISSIVE}
YAML
