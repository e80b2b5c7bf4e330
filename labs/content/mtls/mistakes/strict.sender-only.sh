kubectl apply -f - <<'YAML'
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: httpbin, namespace: mtls-app}
spec:
  host: httpbin.mtls-app.svc.cluster.local
  trafficPolicy:
    tls: {mode: ISTIO_MUTUAL}
YAML
