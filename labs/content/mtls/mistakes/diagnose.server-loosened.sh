kubectl apply -f - <<'YAML'
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: billing, namespace: mtls-app}
spec:
  selector: {matchLabels: {app: billing}}
  mtls: {mode: PERMISSIVE}
YAML
