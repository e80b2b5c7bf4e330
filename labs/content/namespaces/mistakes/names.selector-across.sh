kubectl apply -f - <<'YAML'
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: team-b}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: ropes.local/app:v1
          args: [serve, --listen, ":8080"]
          ports: [{name: http, containerPort: 8080}]
          resources: {requests: {cpu: 10m, memory: 16Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: team-b}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: neighbour, namespace: team-b, labels: {app: neighbour}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: serve
      image: ropes.local/app:v1
      args: [serve, --listen, ":8080"]
      ports: [{name: http, containerPort: 8080}]
      resources: {requests: {cpu: 10m, memory: 16Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: neighbour, namespace: team-b}
spec:
  selector: {app: neighbour}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: team-a, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: serve
      image: ropes.local/app:v1
      args: [serve, --listen, ":8080"]
      ports: [{name: http, containerPort: 8080}]
      resources: {requests: {cpu: 10m, memory: 16Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: client, namespace: team-a}
spec:
  selector: {app: client}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: batch, namespace: team-a, labels: {app: batch}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: serve
      image: ropes.local/app:v1
      args: [serve, --listen, ":8080"]
      ports: [{name: http, containerPort: 8080}]
      resources: {requests: {cpu: 10m, memory: 16Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: batch, namespace: team-a}
spec:
  selector: {app: batch}
  ports: [{name: http, port: 80, targetPort: 8080}]
YAML
kubectl apply -f - <<'YAML'
apiVersion: v1
kind: Service
metadata: {name: backend, namespace: team-a}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
YAML
