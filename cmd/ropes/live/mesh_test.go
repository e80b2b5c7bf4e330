//go:build live

package live

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// meshSuite drives every resource of Istio's through the API server and looks at what clients and servers see.
func meshSuite(t *testing.T, r *rig, cluster string) {
	m := newMesh(t, r, cluster)
	m.setUp(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *mesh)
	}{
		{"routes", meshRoutes},
		{"traffic", meshTraffic},
		{"destinations", meshDestinations},
		{"resilience", meshResilience},
		{"gateways", meshGateways},
		{"egress", meshEgress},
		{"peers", meshPeers},
		{"authorization", meshAuthorization},
		{"tokens", meshTokens},
		{"telemetry", meshTelemetry},
		{"filters", meshFilters},
		{"istioctl", meshIstioctl},
		{"churn", meshChurn},
		{"rotation", meshRotation},
	} {
		t.Run(part.name, func(t *testing.T) {
			began := time.Now()
			part.run(t, m)
			t.Logf("took %.1fs", time.Since(began).Seconds())
		})
	}
}

const meshNamespaces = `
apiVersion: v1
kind: Namespace
metadata: {name: mesh, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: mesh-two, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: mesh-out}
`

// meshWorkloads are the suite's clients and servers. v1 of app and the clients are in zone a, v2 is in zone b.
const meshWorkloads = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: client, namespace: mesh}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: app, namespace: mesh}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: other, namespace: mesh-two}
---
apiVersion: v1
kind: Service
metadata: {name: app, namespace: mesh, labels: {app: app}}
spec:
  selector: {app: app}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: grpc, port: 81, targetPort: 8082}
  - {name: tcp, port: 9000, targetPort: 9000}
  - {name: tls-own, port: 443, targetPort: 8443}
---
apiVersion: v1
kind: Service
metadata: {name: mirror, namespace: mesh}
spec:
  selector: {app: mirror}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: stub, namespace: mesh-out}
spec:
  selector: {app: stub}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: grpc-otlp, port: 4317, targetPort: 8080}
  - {name: http-zipkin, port: 9411, targetPort: 8080}
  - {name: grpc-authz, port: 9001, targetPort: 8080}
  - {name: tls-own, port: 443, targetPort: 8443}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app-v1, namespace: mesh}
spec:
  selector: {matchLabels: {app: app, version: v1}}
  template:
    metadata:
      labels: {app: app, version: v1, topology.istio.io/locality: here.a}
      annotations: {readiness.status.sidecar.istio.io/failureThreshold: "60"} # a busy machine takes no endpoint away
    spec:
      serviceAccountName: app
      terminationGracePeriodSeconds: 15
      containers:
      - name: app
        image: ropes.local/app:v1
        command: [serve, --listen, ":8080,:8082", --tcp, ":9000", --listen-tls, ":8443", --control, ":7001", --dir, /tmp]
        env: [{name: SERVICE_VERSION, value: v1}]
        readinessProbe: {httpGet: {path: /health, port: 8080}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 60}
        lifecycle: {preStop: {sleep: {seconds: 3}}}
        volumeMounts: [{name: tmp, mountPath: /tmp}]
      volumes: [{name: tmp, emptyDir: {}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app-v2, namespace: mesh}
spec:
  selector: {matchLabels: {app: app, version: v2}}
  template:
    metadata:
      labels: {app: app, version: v2, topology.istio.io/locality: here.b}
      annotations: {readiness.status.sidecar.istio.io/failureThreshold: "60"} # a busy machine takes no endpoint away
    spec:
      serviceAccountName: app
      terminationGracePeriodSeconds: 15
      containers:
      - name: app
        image: ropes.local/app:v1
        command: [serve, --listen, ":8080,:8082", --tcp, ":9000", --listen-tls, ":8443", --control, ":7001"]
        env: [{name: SERVICE_VERSION, value: v2}]
        readinessProbe: {httpGet: {path: /health, port: 8080}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 60}
        lifecycle: {preStop: {sleep: {seconds: 3}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: mirror, namespace: mesh}
spec:
  selector: {matchLabels: {app: mirror}}
  template:
    metadata: {labels: {app: mirror}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - {name: app, image: "ropes.local/app:v1", command: [serve, --listen, ":8080", --control, ":7001"]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, namespace: mesh}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client, role: tester, topology.istio.io/locality: here.a}}
    spec:
      serviceAccountName: client
      terminationGracePeriodSeconds: 2
      containers:
      - {name: relay, image: "ropes.local/app:v1", command: [relay]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other, namespace: mesh-two}
spec:
  selector: {matchLabels: {app: other}}
  template:
    metadata: {labels: {app: other}}
    spec:
      serviceAccountName: other
      terminationGracePeriodSeconds: 2
      containers:
      - {name: relay, image: "ropes.local/app:v1", command: [relay]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: stranger, namespace: mesh-out}
spec:
  selector: {matchLabels: {app: stranger}}
  template:
    metadata: {labels: {app: stranger}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - {name: relay, image: "ropes.local/app:v1", command: [relay]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: stub, namespace: mesh-out}
spec:
  selector: {matchLabels: {app: stub}}
  template:
    metadata: {labels: {app: stub}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - {name: app, image: "ropes.local/app:v1", command: [serve, --listen, ":8080", --listen-tls, ":8443", --control, ":7001"]}
`

// setUp installs the workloads until the end of the suite.
func (m *mesh) setUp(t *testing.T) {
	t.Helper()
	began := time.Now()
	m.apply(t, meshNamespaces)
	for _, u := range documents(t, meshWorkloads) { // they go with their namespaces
		if err := m.put(t.Context(), u); err != nil {
			t.Fatalf("apply %s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
	for _, w := range [][2]string{{"mesh", "app=app,version=v1"}, {"mesh", "app=app,version=v2"}, {"mesh", "app=mirror"}, {"mesh-out", "app=stub"}} {
		m.mustPod(t, w[0], w[1])
	}
	m.client = m.relayIn(t, "mesh", "app=client")
	m.other = m.relayIn(t, "mesh-two", "app=other")
	m.stranger = m.relayIn(t, "mesh-out", "app=stranger")
	for _, v := range []string{"v1", "v2"} {
		m.client.want(t, get("http://app/"), code(200), from(v))
	}
	m.stranger.want(t, get("http://app.mesh/"), code(200))
	t.Logf("workloads were up after %.1fs", time.Since(began).Seconds())
}

// logs returns what a container of a pod has logged.
func (m *mesh) logs(t *testing.T, p *corev1.Pod, container string, since time.Time) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	after := metav1.NewTime(since)
	b, err := m.kube.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{Container: container, SinceTime: &after}).DoRaw(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
