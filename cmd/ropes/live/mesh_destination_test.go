//go:build live

package live

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// policyFor is a DestinationRule of a host with a traffic policy and both subsets.
func policyFor(host, policy string) string {
	return `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ` + strings.Split(host, ".")[0] + `}
spec:
  host: ` + host + `
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  trafficPolicy:
` + policy + "\n---\n"
}

const appHost = "app.mesh.svc.cluster.local"

// meshDestinations is how a host is chosen.
func meshDestinations(t *testing.T, m *mesh) {
	spread := func(t *testing.T, n int, o order) map[string]int { return m.client.count(t, n, o, outcome.version) }
	both := func(t *testing.T, policy string) {
		t.Helper()
		m.apply(t, policyFor(appHost, policy))
		eventually(t, settle, func() error {
			if got := spread(t, 12, get("http://app/")); got["v1"] == 0 || got["v2"] == 0 || got["v1"]+got["v2"] != 12 {
				return fmt.Errorf("want both versions to answer, got %v", got)
			}
			return nil
		})
	}
	for _, lb := range []string{"ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"} {
		t.Run(lb, func(t *testing.T) { both(t, "    loadBalancer: {simple: "+lb+"}") })
	}
	t.Run("round robin takes turns", func(t *testing.T) {
		m.apply(t, policyFor(appHost, "    loadBalancer: {simple: ROUND_ROBIN}"))
		// One listener, one schedule: over kept connections each of two hosts gets every other request.
		eventually(t, settle, func() error {
			if got := spread(t, 20, get("http://app/")); got["v1"] != 10 || got["v2"] != 10 {
				return fmt.Errorf("20 requests over two hosts: %v", got)
			}
			return nil
		})
	})
	// sticky wants equal keys to meet one host and many keys to meet both.
	sticky := func(t *testing.T, with func(i int) order) {
		t.Helper()
		eventually(t, settle, func() error {
			seen := map[string]int{}
			for key := range 16 {
				got := spread(t, 3, with(key))
				if len(got) != 1 || got[""] > 0 {
					return fmt.Errorf("key %d meets %v", key, got)
				}
				for v := range got {
					seen[v]++
				}
			}
			if len(seen) != 2 {
				return fmt.Errorf("16 keys meet only %v", seen)
			}
			return nil
		})
	}
	for _, ring := range []string{"", ", ringHash: {minimumRingSize: 256}", ", maglev: {tableSize: 251}"} {
		t.Run("consistent hash by header"+ring, func(t *testing.T) {
			m.apply(t, policyFor(appHost, "    loadBalancer: {consistentHash: {httpHeaderName: x-user"+ring+"}}"))
			sticky(t, func(i int) order { return get("http://app/", "x-user", fmt.Sprint("user-", i)) })
		})
	}
	t.Run("consistent hash by query", func(t *testing.T) {
		m.apply(t, policyFor(appHost, "    loadBalancer: {consistentHash: {httpQueryParameterName: who}}"))
		sticky(t, func(i int) order { return get(fmt.Sprintf("http://app/?who=%d", i*7919)) })
	})
	t.Run("consistent hash by cookie", func(t *testing.T) {
		m.apply(t, policyFor(appHost, "    loadBalancer: {consistentHash: {httpCookie: {name: berth, ttl: 60s, path: /}}}"))
		got := m.client.want(t, get("http://app/"), code(200), that("a cookie", func(o outcome) bool { return strings.HasPrefix(o.Headers.Get("Set-Cookie"), "berth=") }))
		cookie, _, _ := strings.Cut(strings.ReplaceAll(got.Headers.Get("Set-Cookie"), `"`, ""), ";")
		m.client.always(t, 6, get("http://app/", "cookie", cookie), code(200), from(got.version()))
	})
	t.Run("consistent hash by source", func(t *testing.T) {
		m.apply(t, policyFor(appHost, "    loadBalancer: {consistentHash: {useSourceIp: true}}"))
		eventually(t, settle, func() error {
			if got := spread(t, 10, get("http://app/")); len(got) != 1 || got[""] > 0 {
				return fmt.Errorf("one client meets %v", got)
			}
			return nil
		})
	})
	t.Run("subsets", func(t *testing.T) {
		m.apply(t, policyFor(appHost, "    loadBalancer: {simple: ROUND_ROBIN}")+toV2(`{uri: {prefix: /two}}`))
		m.client.only(t, "v2", get("http://app/two"))
		m.client.only(t, "v1", get("http://app/"))
	})
	t.Run("a subset without hosts", func(t *testing.T) {
		m.apply(t, strings.ReplaceAll(policyFor(appHost, "    loadBalancer: {simple: ROUND_ROBIN}"), "{version: v2}", "{version: v9}")+toV2(`{uri: {prefix: /two}}`))
		m.client.want(t, get("http://app/two"), code(503), says("no healthy upstream"))
	})
	t.Run("locality", func(t *testing.T) {
		// Client and v1 are in zone a; v2 is in zone b. With outlier detection the near ones come first.
		m.apply(t, policyFor(appHost, `
    outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 30s, maxEjectionPercent: 100}
    loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {enabled: true}}`))
		near := func(version string) error {
			if got := spread(t, 10, get("http://app/")); got[version] != 10 {
				return fmt.Errorf("want %s only, got %v", version, got)
			}
			return nil
		}
		eventually(t, settle, func() error { return near("v1") })
		t.Run("failover", func(t *testing.T) {
			m.scriptOf(t, "mesh", "app=app,version=v1").set(t, rule{Contains: "GET /\n", Status: 500})
			eventually(t, settle, func() error { return near("v2") })
		})
	})
	t.Run("locality distribution", func(t *testing.T) {
		m.apply(t, policyFor(appHost, `
    loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {distribute: [{from: "here/*", to: {"here/b/*": 100}}]}}
    outlierDetection: {consecutive5xxErrors: 100}`))
		eventually(t, settle, func() error {
			if got := spread(t, 10, get("http://app/")); got["v2"] != 10 {
				return fmt.Errorf("want v2 only, got %v", got)
			}
			return nil
		})
	})
	t.Run("warm-up and keepalive", func(t *testing.T) {
		both(t, `
    loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 10s, minimumPercent: 10, aggression: 1}}
    connectionPool: {tcp: {tcpKeepalive: {time: 5s, interval: 1s, probes: 3}, connectTimeout: 2s, maxConnectionDuration: 30s}, http: {idleTimeout: 2s, maxRequestsPerConnection: 1}}`)
	})
	t.Run("HTTP/1 upgraded to HTTP/2", func(t *testing.T) {
		m.apply(t, policyFor(appHost, `    connectionPool: {http: {h2UpgradePolicy: UPGRADE}}`))
		began := time.Now().Add(-time.Second)
		eventually(t, settle, func() error {
			got := m.client.fetch(t, get("http://app/upgraded"))
			if got.Status != 200 {
				return fmt.Errorf("%s", got)
			}
			time.Sleep(200 * time.Millisecond)
			p := m.mustPod(t, "mesh", "app=app,version="+got.version())
			if log := m.logs(t, p, "istio-proxy", began); !strings.Contains(log, `"GET /upgraded HTTP/2"`) {
				return fmt.Errorf("the server's proxy is not spoken to by HTTP/2:\n%.1500s", log)
			}
			return nil
		})
	})
	t.Run("simple TLS to the server's own port", func(t *testing.T) {
		m.apply(t, external("tls-app.example", `
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}]
  location: MESH_EXTERNAL
  resolution: DNS
  endpoints: [{address: `+outside+`}]`)+`
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: tls-app}
spec:
  host: tls-app.example
  trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: false, subjectAltNames: [somebody.else]}}
`)
		m.client.want(t, unroutable("http://tls-app.example/", "240.9.9.9:80"), code(503)) // the certificate is not for that name, nor trusted
	})
}

// meshResilience is what happens when things go wrong.
func meshResilience(t *testing.T, m *mesh) {
	t.Run("retries", func(t *testing.T) {
		m.apply(t, subsets)
		s := m.scriptOf(t, "mesh", "app=app,version=v1")
		m.apply(t, virtual(`
  - match: [{uri: {prefix: /stubborn}}]
    retries: {attempts: 3, perTryTimeout: 1s, retryOn: "5xx,reset", backoff: 10ms}
    route: [{destination: {host: app, subset: v1}}]
  - match: [{uri: {prefix: /once}}]
    retries: {attempts: 0}
    route: [{destination: {host: app, subset: v1}}]
  - match: [{uri: {prefix: /patient}}]
    retries: {attempts: 2, perTryTimeout: 0.3s, retryOn: "5xx"}
    route: [{destination: {host: app, subset: v1}}]
  - directResponse: {status: 299}
    name: rest
`))
		m.client.want(t, get("http://app/"), code(299))
		s.set(t, rule{Contains: "/stubborn/status", Status: 502, Times: 3}, rule{Contains: "/stubborn/reset", Reset: true, Times: 2},
			rule{Contains: "/stubborn/too-often", Status: 502, Times: 4}, rule{Contains: "/once", Status: 502, Times: 1}, rule{Contains: "/patient", DelayMS: 1500, Times: 1})
		for path, want := range map[string]int{"/stubborn/status": 200, "/stubborn/reset": 200, "/stubborn/too-often": 502, "/once": 502, "/patient": 200} {
			got := m.client.fetch(t, get("http://app"+path))
			if got.Status != want {
				t.Errorf("%s: want %d, got %s", path, want, got)
			}
		}
		posted := get("http://app/stubborn/status")
		posted.Method, posted.Body = "POST", []byte("a body that travels again")
		s.set(t, rule{Contains: "/stubborn/status", Status: 502, Times: 2})
		if got := m.client.fetch(t, posted); got.Status != 200 || got.echo().Body != "a body that travels again" {
			t.Errorf("a body is retried: %s", got)
		}
	})
	t.Run("outlier detection", func(t *testing.T) {
		m.apply(t, policyFor(appHost, `
    loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {enabled: false}} # else v2, elsewhere, is for when v1 is out
    outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 3s, maxEjectionPercent: 100}`)+virtual(`
  - retries: {attempts: 0}
    route: [{destination: {host: app}}]
`))
		m.client.want(t, get("http://app/"), from("v2"))
		s := m.scriptOf(t, "mesh", "app=app,version=v2")
		s.set(t, rule{Contains: "GET /\n", Status: 500})
		eventually(t, settle, func() error {
			if got := m.client.count(t, 10, get("http://app/"), outcome.version); got["v1"] != 10 {
				return fmt.Errorf("want the failing host ejected, got %v", got)
			}
			return nil
		})
		s.do(t, "DELETE", nil, nil)
		m.client.want(t, get("http://app/"), from("v2")) // it comes back
	})
	t.Run("connection pool", func(t *testing.T) {
		m.apply(t, policyFor(appHost, `
    connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 100}}`)+toV2(`{uri: {prefix: /nothing}}`))
		m.client.want(t, get("http://app/"), from("v1"))
		crowd := func() map[int]int {
			var mu sync.Mutex
			var wg sync.WaitGroup
			seen := map[int]int{}
			for range 8 {
				wg.Go(func() {
					got, err := post[outcome](m.client.http, m.client.base+"/fetch", get("http://app/delay/0.5"))
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						got.Status = -1
					}
					seen[got.Status]++
				})
			}
			wg.Wait()
			return seen
		}
		eventually(t, settle, func() error {
			if got := crowd(); got[503] < 4 || got[200] < 1 || got[200]+got[503] != 8 {
				return fmt.Errorf("8 at once through one connection: %v", got)
			}
			return nil
		})
		got := m.client.fetch(t, get("http://app/"))
		if got.Status != 200 {
			t.Errorf("when the crowd is gone: %s", got)
		}
	})
	t.Run("a pod goes away", func(t *testing.T) {
		m.apply(t, subsets)
		m.client.want(t, get("http://app/"), from("v2"))
		old := m.mustPod(t, "mesh", "app=app,version=v2")
		if err := m.kube.CoreV1().Pods("mesh").Delete(t.Context(), old.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(60 * time.Second)
		var fresh *corev1.Pod
		for n := 0; ; n++ {
			if got := m.client.fetch(t, get("http://app/")); got.Status != 200 {
				t.Fatalf("request %d while a pod is replaced: %s", n, got)
			}
			if p, err := m.pod(t.Context(), "mesh", "app=app,version=v2"); err == nil && p.Name != old.Name {
				fresh = p
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("no new pod")
			}
		}
		m.client.want(t, get("http://app/"), that("the new pod", func(o outcome) bool { return o.echo().Hostname == fresh.Name }))
	})
}
