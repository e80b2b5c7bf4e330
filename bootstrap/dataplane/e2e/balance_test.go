package e2e

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	meshapi "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/features"
)

// backends are three pods without proxies behind one service, and a client with one.
func backends(t *testing.T, edit func(string) string) (*world, *pod) {
	t.Helper()
	objects := podYAML("client", "10.9.0.1", true) + podYAML("a", "10.9.0.11", false) + podYAML("b", "10.9.0.12", false) +
		podYAML("c", "10.9.0.13", false) + serviceYAML("be", "10.96.0.10", httpPorts, slicePorts,
		[2]string{"a", "10.9.0.11"}, [2]string{"b", "10.9.0.12"}, [2]string{"c", "10.9.0.13"})
	if edit != nil {
		objects = edit(objects)
	}
	w := newWorld(t, objects, "")
	for i, name := range []string{"a", "b", "c"} {
		w.start(name, fmt.Sprintf("10.9.0.1%d", i+1), false)
	}
	return w, w.start("client", "10.9.0.1", true)
}

func toBackend(path string) order {
	return order{Kind: "http", Method: "GET", URL: "http://10.96.0.10:8000" + path, Host: "be.ns:8000", Header: map[string]string{}}
}

// tally sends n requests and counts who answers.
func tally(p *pod, n int, o func(i int) order) (map[string]int, error) {
	out := map[string]int{}
	for i := range n {
		got, err := p.order(o(i))
		if err != nil {
			return nil, err
		}
		name := fmt.Sprint(got.Status)
		for _, w := range []string{"a", "b", "c", "client"} {
			if strings.Contains(got.Body, `"name":"`+w+`"`) {
				name = w
			}
		}
		if got.Err != "" {
			name = got.Err
		}
		out[name]++
	}
	return out, nil
}

// spread waits until n requests are answered as want says.
func spread(t *testing.T, p *pod, what string, n int, o func(i int) order, want func(map[string]int) bool) {
	t.Helper()
	eventually(t, p, what, func() error {
		got, err := tally(p, n, o)
		if err == nil && !want(got) {
			err = fmt.Errorf("got %v", got)
		}
		return err
	})
}

func rule(policy string) string {
	return "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: be, namespace: ns}\n" +
		"spec:\n  host: be.ns.svc.cluster.local\n  trafficPolicy:\n" + policy + "\n"
}

func same(o order) func(int) order { return func(int) order { return o } }

func TestBalancing(t *testing.T) {
	w, client := backends(t, nil)
	w.apply(rule("    loadBalancer: {simple: ROUND_ROBIN}"))
	spread(t, client, "round robin", 30, same(toBackend("/")), func(m map[string]int) bool {
		return m["a"] == 10 && m["b"] == 10 && m["c"] == 10
	})
	for name, policy := range map[string]string{"LEAST_REQUEST": "simple: LEAST_REQUEST", "RANDOM": "simple: RANDOM", "warmup": "simple: ROUND_ROBIN, warmup: {duration: 60s}"} {
		w.apply(rule("    loadBalancer: {" + policy + "}"))
		spread(t, client, name, 60, same(toBackend("/")), func(m map[string]int) bool {
			return m["a"] > 5 && m["b"] > 5 && m["c"] > 5 && m["a"]+m["b"]+m["c"] == 60
		})
	}
	one := func(m map[string]int) bool { return len(m) == 1 && m["a"]+m["b"]+m["c"] > 0 }
	all := func(m map[string]int) bool { return len(m) == 3 && m["a"] > 0 && m["b"] > 0 && m["c"] > 0 }
	user := func(i int) order {
		o := toBackend(fmt.Sprintf("/?user=u%d", i))
		o.Header["x-user"] = fmt.Sprint("u", i)
		return o
	}
	for name, c := range map[string]struct {
		policy string
		spread bool // over users
	}{
		"header on a ring":   {"consistentHash: {httpHeaderName: x-user}", true},
		"header with maglev": {"consistentHash: {httpHeaderName: x-user, maglev: {tableSize: 1009}}", true},
		"query parameter":    {"consistentHash: {httpQueryParameterName: user, ringHash: {minimumRingSize: 512}}", true},
		"source address":     {"consistentHash: {useSourceIp: true}", false},
	} {
		w.apply(rule("    loadBalancer: {" + c.policy + "}"))
		spread(t, client, name+": one user", 20, same(user(1)), one)
		want := all
		if !c.spread {
			want = one
		}
		spread(t, client, name+": many users", 60, user, want)
	}
	w.apply(rule(`    loadBalancer: {consistentHash: {httpCookie: {name: sticky, path: /, ttl: 60s}}}`))
	var cookie string
	eventually(t, client, "a cookie is given", func() error {
		o := client.send(toBackend("/"))
		cookie = o.Header.Get("Set-Cookie")
		if !strings.HasPrefix(cookie, `sticky="`) || !strings.Contains(cookie, "; Max-Age=60; Path=/; HttpOnly") {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	with := toBackend("/")
	with.Header["Cookie"], _, _ = strings.Cut(cookie, ";")
	spread(t, client, "the cookie sticks", 20, same(with), one)
	if o := client.send(with); o.Header.Get("Set-Cookie") != "" {
		t.Errorf("a client that has the cookie was given another: %v", o.Header)
	}
	noNacks(t, client)
}

func TestSubsets(t *testing.T) {
	w, client := backends(t, nil)
	w.apply(rule("    loadBalancer: {simple: ROUND_ROBIN}\n  subsets:\n  - {name: one, labels: {app: a}}\n" +
		"  - {name: two, labels: {app: b}, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}"))
	w.apply(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: be, namespace: ns}
spec:
  hosts: [be.ns.svc.cluster.local]
  http:
  - match: [{headers: {x-version: {exact: two}}}]
    route: [{destination: {host: be.ns.svc.cluster.local, subset: two}}]
  - route: [{destination: {host: be.ns.svc.cluster.local, subset: one}}]
`)
	spread(t, client, "the default subset", 10, same(toBackend("/")), func(m map[string]int) bool { return m["a"] == 10 })
	two := toBackend("/")
	two.Header["x-version"] = "two"
	spread(t, client, "the other subset", 10, same(two), func(m map[string]int) bool { return m["b"] == 10 })
	noNacks(t, client)
}

const localityEntry = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: zones, namespace: ns}
spec:
  hosts: [zones.example]
  addresses: [240.1.1.9]
  ports: [{number: 8000, name: http, protocol: HTTP}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints:
  - {address: 10.9.0.11, ports: {http: 8080}, locality: r1/z1, labels: {tier: near}}
  - {address: 10.9.0.12, ports: {http: 8080}, locality: r1/z2, labels: {tier: near}}
  - {address: 10.9.0.13, ports: {http: 8080}, locality: r2/z1, labels: {tier: far}}
---
`

func TestLocalities(t *testing.T) {
	w, client := backends(t, nil)
	zones := func(settings string) string {
		return localityEntry + "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: zones, namespace: ns}\n" +
			"spec: {host: zones.example, trafficPolicy: {" + settings + "}}\n"
	}
	o := func(path string) order {
		return order{Kind: "http", Method: "GET", URL: "http://240.1.1.9:8000" + path, Host: "zones.example:8000"}
	}
	w.apply(zones(`loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {distribute: [{from: "*", to: {"r1/z1/*": 70, "r2/z1/*": 30}}]}}`))
	spread(t, client, "70 to 30", 100, same(o("/")), func(m map[string]int) bool { return m["a"] == 70 && m["c"] == 30 })
	w.apply(zones(`loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {failoverPriority: ["tier=near"]}},
  outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 120s, maxEjectionPercent: 100}`))
	spread(t, client, "the near ones first", 20, same(o("/")), func(m map[string]int) bool {
		return len(m) == 2 && m["a"] > 7 && m["b"] > 7
	})
	// One of two is ejected: the other has 70 % of the load, the far one what is left.
	spread(t, client, "part of the load spills over", 100, same(o("/sick/a")), func(m map[string]int) bool {
		return m["a"] == 0 && m["503"] == 0 && m["b"] > 50 && m["c"] > 10
	})
	spread(t, client, "all of it goes", 20, same(o("/sick/b")), func(m map[string]int) bool { return m["c"] == 20 })
	noNacks(t, client)
}

func TestDNSServices(t *testing.T) {
	w, client := backends(t, nil)
	// The file of host names is the only name service in these namespaces.
	for i, resolution := range []string{"DNS", "DNS_ROUND_ROBIN"} {
		w.apply(fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: dns%[1]d, namespace: ns}
spec:
  hosts: [dns%[1]d.example]
  addresses: [240.2.2.%[1]d]
  ports: [{number: 8000, name: http, protocol: HTTP, targetPort: 8080}]
  resolution: %[2]s
  location: MESH_EXTERNAL
  endpoints: [{address: localhost}]
`, i+1, resolution))
		spread(t, client, resolution, 5, same(order{
			Kind: "http", Method: "GET", URL: fmt.Sprintf("http://240.2.2.%d:8000/", i+1), Host: fmt.Sprintf("dns%d.example:8000", i+1),
		}), func(m map[string]int) bool { return m["client"] == 5 })
	}
	w.apply(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: dns3, namespace: ns}
spec:
  hosts: [dns3.example]
  addresses: [240.2.2.3]
  ports: [{number: 8000, name: http, protocol: HTTP, targetPort: 8080}]
  resolution: DNS
  location: MESH_EXTERNAL
  endpoints: [{address: 10.9.0.11}, {address: localhost}]
`)
	spread(t, client, "an address and a name", 40, same(order{Kind: "http", Method: "GET", URL: "http://240.2.2.3:8000/", Host: "dns3.example:8000"}),
		func(m map[string]int) bool { return len(m) == 2 && m["a"] > 0 && m["client"] > 0 })
	noNacks(t, client)
}

// TestAnyName: whatever host a request names is looked up, wherever the client wanted to connect to.
func TestAnyName(t *testing.T) {
	w := newWorldOf(t, podYAML("client", "10.9.0.1", true), "", false, func(m *meshapi.MeshConfig) {
		m.OutboundTrafficPolicy = &meshapi.MeshConfig_OutboundTrafficPolicy{Mode: meshapi.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY_DYNAMIC_DNS}
	})
	client := w.start("client", "10.9.0.1", true)
	spread(t, client, "any name", 5, same(order{Kind: "http", Method: "GET", URL: "http://240.3.3.3:8000/", Host: "localhost:8080"}),
		func(m map[string]int) bool { return m["client"] == 5 })
	if o := client.send(order{Kind: "http", Method: "GET", URL: "http://240.3.3.3:8000/", Host: "nowhere.invalid:8080"}); o.Status != 503 ||
		o.Body != "DNS resolution failure" {
		t.Errorf("a name that is nowhere gave %+v", o)
	}
	noNacks(t, client)
}

func TestPersistentSessions(t *testing.T) {
	features.EnablePersistentSessionFilter.Store(true)
	t.Cleanup(func() { features.EnablePersistentSessionFilter.Store(false) })
	_, client := backends(t, func(objects string) string {
		objects = strings.Replace(objects, "metadata: {name: be, namespace: ns}", `metadata: {name: be, namespace: ns, labels: {istio.io/persistent-session: session}}`, 1)
		return strings.Replace(objects, "app: c\n", "app: c\n    istio.io/draining: \"true\"\n", 1)
	})
	var cookie string
	eventually(t, client, "a session begins", func() error {
		o := client.send(toBackend("/"))
		cookie, _, _ = strings.Cut(o.Header.Get("Set-Cookie"), ";")
		if !strings.HasPrefix(cookie, `session="`) {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	with := toBackend("/")
	with.Header["Cookie"] = cookie
	spread(t, client, "the session stays", 20, same(with), func(m map[string]int) bool { return len(m) == 1 && m["a"]+m["b"] == 20 })
	spread(t, client, "a draining pod takes no new sessions", 40, same(toBackend("/")), func(m map[string]int) bool {
		return len(m) == 2 && m["c"] == 0 && m["a"] > 0 && m["b"] > 0
	})
	old := toBackend("/")
	old.Header["Cookie"] = `session="` + base64.StdEncoding.EncodeToString([]byte("\n\x0e10.9.0.13:8080")) + `"`
	spread(t, client, "a draining pod keeps its sessions", 10, same(old), func(m map[string]int) bool { return m["c"] == 10 })
	noNacks(t, client)
}
