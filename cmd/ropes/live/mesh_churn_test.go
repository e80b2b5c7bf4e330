//go:build live

package live

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// loadOrder and loadOutcome: see cmd/ropes-app/internal/servers.
type loadOrder struct {
	Orders []order
	Rate   float64
	Count  int
}

type loadOutcome struct {
	Sent, Done, Failed int
	Failures           []string
	TookMS, SlowestMS  float64
	Finished           bool
}

// load starts a steady stream of requests; the channel gives what came of it when all are answered.
func (r *relay) load(ctx context.Context, o loadOrder) <-chan loadOutcome {
	out := make(chan loadOutcome, 1)
	go func() {
		var last loadOutcome
		defer func() { out <- last }()
		body, err := json.Marshal(o)
		if err != nil {
			return
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+"/load", bytes.NewReader(body))
		if err != nil {
			return
		}
		resp, err := (&http.Client{}).Do(req)
		if err != nil {
			last.Failures = []string{err.Error()}
			return
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if err := json.Unmarshal(lines.Bytes(), &last); err != nil {
				last.Failures = append(last.Failures, err.Error())
				return
			}
		}
	}()
	return out
}

// unfailing wants all of a load answered.
func unfailing(t *testing.T, got loadOutcome, want int) {
	t.Helper()
	t.Logf("%d requests in %.1fs, %d failed, the slowest took %.0fms", got.Done, got.TookMS/1000, got.Failed, got.SlowestMS)
	if !got.Finished || got.Done != want || got.Failed != 0 {
		t.Errorf("want %d requests without a failure, got %d with %d failures:\n%s", want, got.Done, got.Failed, strings.Join(got.Failures, "\n"))
	}
}

// changes are the configurations that meshChurn goes through; %d is the number of the change.
var changes = []string{
	// Routes: weights, headers, retries.
	`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app.mesh.svc.cluster.local]
  http:
  - headers: {response: {set: {x-change: "%d"}}}
    route:
    - {destination: {host: app, subset: v1}, weight: 50}
    - {destination: {host: app, subset: v2}, weight: 50}
`,
	// Clusters: everything about them made anew.
	`
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: app}
spec:
  host: app.mesh.svc.cluster.local
  trafficPolicy:
    connectionPool: {http: {maxRequestsPerConnection: %d}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
`,
	// Authorization: the server's listener.
	`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: churn}
spec:
  selector: {matchLabels: {app: app}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/change-%d]}}]
`,
	// Listeners of the client: a service on a port of its own.
	`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: churn}
spec:
  hosts: [churn.example]
  addresses: [240.7.7.7]
  ports: [{number: 10%03d, name: tcp, protocol: TCP}]
  resolution: NONE
`,
	// Listeners of both: how peers are authenticated, with what name in the log.
	`
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: churn}
spec:
  accessLogging: [{providers: [{name: envoy}], filter: {expression: "response.code >= %d"}}]
`,
	// Routes of another kind: the same, without weights.
	`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app.mesh.svc.cluster.local]
  http:
  - match: [{headers: {x-to: {exact: v2}}}]
    route: [{destination: {host: app, subset: v2}}]
  - headers: {response: {set: {x-change: "%d"}}}
    route: [{destination: {host: app, subset: v1}}]
`,
	// Clusters again: another policy, another transport.
	`
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: app}
spec:
  host: app.mesh.svc.cluster.local
  trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {http: {h2UpgradePolicy: UPGRADE, http2MaxRequests: 10%03d}}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
`,
	// Who has to speak TLS: the server's filter chains. Both ways are open to the client, which does.
	`
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: churn}
spec:
  mtls: {mode: STRICT}
  selector: {matchLabels: {app: app}}
  portLevelMtls: {9000: {mode: DISABLE}, 1%03d: {mode: DISABLE}}
`,
}

// meshChurn sends 10,000 requests at a steady rate while 200 changes of configuration land, endpoints come and go among
// them. Not one may fail.
func meshChurn(t *testing.T, m *mesh) {
	const requests, landed, rate = 10000, 200, 50 // a second: on a slow machine the changes alone keep two cores half busy
	for _, c := range changes[:2] {               // subsets before routes name them
		defer func() {
			for _, u := range documents(t, fmt.Sprintf(c, 1)) {
				if err := m.drop(context.WithoutCancel(t.Context()), u); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	m.apply(t, fmt.Sprintf(changes[1], 1))
	for i, c := range changes {
		m.apply(t, fmt.Sprintf(c, i+1))
	}
	m.scale(t, "app-v2", 1)
	t.Cleanup(func() { m.scale(t, "app-v2", 1) })
	m.client.want(t, get("http://app/"), code(200))
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	orders := []order{get("http://app/"), get("http://app/", "x-to", "v2"), get("http://app/version")}
	posted := get("http://app/upload")
	posted.Method, posted.Body = http.MethodPost, []byte(strings.Repeat("x", 4000))
	orders = append(orders, posted)
	began := time.Now()
	done := m.client.load(ctx, loadOrder{Orders: orders, Rate: rate, Count: requests})
	every := time.Duration(requests) * time.Second / rate / (landed + 10)
	last := 0
	for i := range landed {
		time.Sleep(time.Until(began.Add(time.Duration(i+1) * every)))
		if i%25 == 12 { // endpoints
			m.scale(t, "app-v2", 1+(i/25+1)%2)
			continue
		}
		n := 100 + i
		c := changes[i%len(changes)]
		for _, u := range documents(t, fmt.Sprintf(c, n)) {
			if err := m.put(ctx, u); err != nil {
				t.Fatalf("change %d: %v", i, err)
			}
		}
		if strings.Contains(c, "x-change") {
			last = n
		}
	}
	t.Logf("%d changes landed in %.1fs", landed, time.Since(began).Seconds())
	select {
	case got := <-done:
		t.Errorf("the load ended before the changes did: %+v", got)
	default:
	}
	unfailing(t, <-done, requests)
	// The changes were no idle talk: the last of each is in force.
	m.client.want(t, get("http://app/"), code(200), header("x-change", fmt.Sprint(last)))
	m.client.want(t, get(fmt.Sprintf("http://app/change-%d", 100+194)), code(403))
}

// scale sets the number of a deployment's pods.
func (m *mesh) scale(t *testing.T, deployment string, n int) {
	t.Helper()
	m.patch(t, "apps/v1/Deployment", "mesh", deployment, fmt.Sprintf(`{"spec":{"replicas":%d}}`, n))
}

// rotating are a client and servers whose certificates live 10 s and are renewed after a second. A mesh renews them after
// half their life at the earliest, at the shortest advisable life of two minutes once a minute: 240 times in four hours. The
// four pods see as many in a minute.
const rotating = `
apiVersion: v1
kind: Service
metadata: {name: rotating}
spec:
  selector: {app: rotating}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: rotating}
spec:
  replicas: 2
  selector: {matchLabels: {app: rotating}}
  template:
    metadata:
      labels: {app: rotating}
      annotations: {proxy.istio.io/config: "proxyMetadata: {SECRET_TTL: 10s, SECRET_GRACE_PERIOD_RATIO: \"0.9\", ECC_SIGNATURE_ALGORITHM: ECDSA}"}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - {name: app, image: "ropes.local/app:v1", command: [serve, --listen, ":8080"]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: rotating-client}
spec:
  replicas: 2
  selector: {matchLabels: {app: rotating-client}}
  template:
    metadata:
      labels: {app: rotating-client}
      annotations: {proxy.istio.io/config: "proxyMetadata: {SECRET_TTL: 10s, SECRET_GRACE_PERIOD_RATIO: \"0.9\", ECC_SIGNATURE_ALGORITHM: ECDSA}"}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - {name: relay, image: "ropes.local/app:v1", command: [relay]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: rotating}
spec:
  host: rotating.mesh.svc.cluster.local
  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 5}}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: rotating}
spec:
  selector: {matchLabels: {app: rotating}}
  mtls: {mode: STRICT}
`

// meshRotation sends a load between workloads whose certificates are renewed all the time. Not one request may fail.
func meshRotation(t *testing.T, m *mesh) {
	const seconds, rate, rotations = 60, 50, 240
	m.apply(t, rotating)
	clients := []*relay{}
	eventually(t, 3*time.Minute, func() error {
		list, err := m.kube.CoreV1().Pods("mesh").List(t.Context(), metav1.ListOptions{LabelSelector: "app in (rotating,rotating-client)"})
		if err != nil {
			return err
		}
		ready := 0
		for i := range list.Items {
			if podReady(&list.Items[i]) {
				ready++
			}
		}
		if ready != 4 {
			return fmt.Errorf("%d of 4 pods are ready", ready)
		}
		return nil
	})
	list, err := m.kube.CoreV1().Pods("mesh").List(t.Context(), metav1.ListOptions{LabelSelector: "app in (rotating,rotating-client)"})
	if err != nil {
		t.Fatal(err)
	}
	var pages []string
	for i := range list.Items {
		p := &list.Items[i]
		pages = append(pages, statsOf(p))
		if p.Labels["app"] == "rotating-client" {
			clients = append(clients, &relay{base: "http://" + m.forward(t, p, 7000), pod: p, http: m.client.http})
		}
	}
	renewed := func() float64 {
		sum := 0.0
		for _, page := range pages {
			sum += m.stranger.metric(t, page, "istio_agent_num_outgoing_requests", `request_type="csr"`)
		}
		return sum
	}
	for _, c := range clients {
		c.want(t, get("http://rotating/"), code(200))
	}
	before := renewed()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	posted := get("http://rotating/")
	posted.Method, posted.Body = http.MethodPost, []byte("something")
	var loads []<-chan loadOutcome
	for _, c := range clients {
		loads = append(loads, c.load(ctx, loadOrder{Orders: []order{get("http://rotating/"), posted}, Rate: rate, Count: seconds * rate}))
	}
	for _, l := range loads {
		unfailing(t, <-l, seconds*rate)
	}
	n := renewed() - before
	t.Logf("%.0f certificates were renewed meanwhile", n)
	if n < rotations*0.8 {
		t.Errorf("want about %d: this proves nothing", rotations)
	}
}
