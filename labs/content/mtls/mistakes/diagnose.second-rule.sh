kubectl apply -f - <<'YAML'
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: billing-mtls, namespace: mtls-app}
spec:
  host: billing.mtls-app.svc.cluster.local
  trafficPolicy:
    tls: {mode: ISTIO_MUTUAL}
YAML
