kubectl apply -f - <<'YAML'
apiVersion: v1
kind: Pod
metadata:
  name: tap
  namespace: mtls-legacy
  labels: {app: tap}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: tap
      image: ropes.local/app:v1
      args: [sh, -c, 'nc -l -k -p 9000 > /wire']
      ports: [{name: http, containerPort: 9000}]
      resources: {requests: {cpu: 10m, memory: 16Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: tap, namespace: mtls-legacy}
spec:
  selector: {app: tap}
  ports: [{name: http, port: 9000}]
YAML
kubectl -n mtls-legacy wait pod/tap --for=condition=Ready --timeout=60s
# The tap never answers, so curl gives up; what counts is what the tap has read.
for try in 1 2 3 4 5; do
  kubectl -n mtls-legacy exec deploy/client -c client -- curl -s -m 2 -H 'X-Secret: ropes' http://tap.mtls-legacy:9000/ || true
  if kubectl -n mtls-legacy exec tap -c tap -- grep -qi x-secret /wire; then break; fi
done
