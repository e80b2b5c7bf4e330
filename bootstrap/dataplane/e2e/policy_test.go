package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"istio.io/istio/istioctl/pkg/util/configdump"
)

const serverURL = "http://10.96.0.2:8000"

func pair(t *testing.T, configs string) (w *world, client, server, plain *pod) {
	t.Helper()
	return newWorld(t, pairYAML(), configs).pair()
}

func pairYAML() string {
	return podYAML("client", "10.9.0.1", true) + podYAML("server", "10.9.0.2", true) + podYAML("plain", "10.9.0.3", false) +
		serviceYAML("server", "10.96.0.2", httpPorts, slicePorts, [2]string{"server", "10.9.0.2"}) +
		serviceYAML("plain", "10.96.0.3", httpPorts, slicePorts, [2]string{"plain", "10.9.0.3"})
}

// pair starts the three pods that pair describes.
func (w *world) pair() (_ *world, client, server, plain *pod) {
	return w, w.start("client", "10.9.0.1", true), w.start("server", "10.9.0.2", true), w.start("plain", "10.9.0.3", false)
}

func request(path string) order {
	return order{Kind: "http", Method: "GET", URL: serverURL + path, Host: "server.ns:8000", Header: map[string]string{}}
}

func answers(p *pod, o order, want int, body string) func() error {
	return func() error {
		got, err := p.order(o)
		if err != nil {
			return err
		}
		if got.Status != want || !strings.Contains(got.Body, body) {
			return fmt.Errorf("want %d %q, got %+v", want, body, got)
		}
		return nil
	}
}

func TestStrictAndAccess(t *testing.T) {
	w, client, server, plain := pair(t, "")
	undo := w.apply(`
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: ns}
spec: {mtls: {mode: STRICT}}
`)
	eventually(t, plain, "plain text is refused under STRICT", func() error {
		if o := plain.get("http://10.9.0.2:8080/"); o.Err == "" {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	if o := plain.send(order{Kind: "tcp", URL: "10.9.0.2:9000", Body: "x", Half: true}); o.Body != "" {
		t.Errorf("plain TCP under STRICT gave %+v", o)
	}
	eventually(t, client, "mTLS passes under STRICT", answers(client, request("/"), 200, "sa/client"))
	undo()
	eventually(t, plain, "plain text passes again", func() error {
		if o := plain.get("http://10.9.0.2:8080/"); o.Err != "" {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	undo = w.apply(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: ns}
spec:
  selector: {matchLabels: {app: server}}
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/ns/ns/sa/client"]}}]
    to: [{operation: {methods: [GET], paths: ["/ok*"], ports: ["8080"]}}]
`)
	eventually(t, client, "a path that is not allowed", answers(client, request("/no"), 403, "RBAC: access denied"))
	eventually(t, client, "a path that is allowed", answers(client, request("/ok"), 200, ""))
	post := request("/ok")
	post.Method = "POST"
	eventually(t, client, "a method that is not allowed", answers(client, post, 403, "RBAC"))
	if o := plain.get("http://10.9.0.2:8080/ok"); o.Status != 403 {
		t.Errorf("a client without identity got %+v", o)
	}
	if o := client.send(order{Kind: "tcp", URL: "10.96.0.2:9000", Body: "x", Half: true}); o.Body != "" {
		t.Errorf("TCP that no rule allows gave %+v", o)
	}
	undo()
	undo = w.apply(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-tcp, namespace: ns}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules:
  - from: [{source: {notPrincipals: ["cluster.local/ns/ns/sa/client"]}}]
    to: [{operation: {ports: ["9000"]}}]
`)
	eventually(t, plain, "TCP denied by identity", func() error {
		if o := plain.send(order{Kind: "tcp", URL: "10.9.0.2:9000", Body: "x", Half: true}); o.Body != "" {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	eventually(t, client, "TCP of the allowed identity", func() error {
		if o := client.send(order{Kind: "tcp", URL: "10.96.0.2:9000", Body: "x", Half: true}); o.Body != "x" {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	if o := plain.send(order{Kind: "tcp", URL: "10.9.0.2:9000", Body: "x", Half: true}); o.Body != "" {
		t.Errorf("TCP of the denied identity gave %+v", o)
	}
	undo()
	noNacks(t, client, server)
}

func noNacks(t *testing.T, pods ...*pod) {
	t.Helper()
	for _, p := range pods {
		s, err := p.admin("stats?filter=update_rejected&usedonly")
		must(t, err)
		if s != "" {
			b, _ := os.ReadFile(p.proxyLog)
			t.Errorf("%s refused configuration:\n%s\n%s", p.name, s, b)
		}
	}
}

func TestTraffic(t *testing.T) {
	w, client, server, _ := pair(t, "")
	w.apply(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: server, namespace: ns}
spec:
  hosts: [server.ns.svc.cluster.local]
  http:
  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new, authority: other.example}
  - match: [{uri: {exact: /direct}}]
    directResponse: {status: 418, body: {string: teapot}}
  - match: [{uri: {prefix: /x}, headers: {x-kind: {exact: rewritten}}}]
    rewrite: {uri: /rewritten, authority: inner.example}
    headers: {request: {set: {x-added: "1"}, remove: [x-gone]}, response: {add: {x-resp: "2"}}}
    route: [{destination: {host: server.ns.svc.cluster.local, port: {number: 8000}}}]
  - match: [{uri: {regex: "/fault/[0-9]+"}}]
    fault: {abort: {httpStatus: 555, percentage: {value: 100}}}
    route: [{destination: {host: server.ns.svc.cluster.local, port: {number: 8000}}}]
  - match: [{uri: {exact: /slow}}]
    timeout: 0.3s
    route: [{destination: {host: server.ns.svc.cluster.local, port: {number: 8000}}}]
  - match: [{uri: {prefix: /gone}}]
    route: [{destination: {host: nowhere.ns.svc.cluster.local}}]
  - match: [{uri: {prefix: /split}}]
    route:
    - {destination: {host: server.ns.svc.cluster.local, port: {number: 8000}}, weight: 50, headers: {request: {set: {x-arm: a}}}}
    - {destination: {host: server.ns.svc.cluster.local, port: {number: 8000}}, weight: 50, headers: {request: {set: {x-arm: b}}}}
  - match: [{queryParams: {v: {exact: "2"}}}]
    corsPolicy: {allowOrigins: [{exact: "http://a.example"}], allowMethods: [GET], maxAge: 1h}
    route: [{destination: {host: server.ns.svc.cluster.local, port: {number: 8000}}}]
  - route: [{destination: {host: server.ns.svc.cluster.local, port: {number: 8000}}}]
`)
	eventually(t, client, "direct response", answers(client, request("/direct"), 418, "teapot"))
	if o := client.send(request("/old?q=1")); o.Status != 301 || o.Header.Get("Location") != "http://other.example/new?q=1" {
		t.Errorf("redirect gave %+v", o)
	}
	rw := request("/x?q=1")
	rw.Header = map[string]string{"x-kind": "rewritten", "x-gone": "z"}
	o := client.send(rw)
	if e := o.echo(t); e.Path != "/rewritten?q=1" || e.Authority != "inner.example" || e.Headers.Get("X-Added") != "1" ||
		e.Headers.Get("X-Gone") != "" || e.Headers.Get("X-Envoy-Original-Path") != "/x?q=1" || o.Header.Get("X-Resp") != "2" {
		t.Errorf("rewritten request: %+v, response %v", e, o.Header)
	}
	if o := client.send(request("/fault/1")); o.Status != 555 || o.Body != "fault filter abort" {
		t.Errorf("fault gave %+v", o)
	}
	began := time.Now()
	if o := client.send(request("/slow")); o.Status != 504 || o.Body != "upstream request timeout" || time.Since(began) > time.Second {
		t.Errorf("timeout gave %+v after %s", o, time.Since(began))
	}
	if o := client.send(request("/gone")); o.Status != 503 {
		t.Errorf("missing cluster gave %+v", o)
	}
	arms := map[string]int{}
	for range 60 {
		arms[client.send(request("/split")).echo(t).Headers.Get("X-Arm")]++
	}
	if arms["a"] < 10 || arms["b"] < 10 {
		t.Errorf("weights 50/50 gave %v", arms)
	}
	cors := request("/?v=2")
	cors.Method, cors.Header = "OPTIONS", map[string]string{"Origin": "http://a.example", "Access-Control-Request-Method": "GET"}
	if o := client.send(cors); o.Header.Get("Access-Control-Allow-Origin") != "http://a.example" || o.Header.Get("Access-Control-Max-Age") != "3600" {
		t.Errorf("preflight gave %+v", o)
	}
	if o := client.send(request("/trailers")); o.Body != "body" || o.Trailer.Get("X-After") != "yes" {
		t.Errorf("trailers gave %+v", o)
	}
	h2 := request("/h2")
	h2.Kind = "h2c"
	if e := client.send(h2).echo(t); e.Path != "/h2" {
		t.Errorf("HTTP/2 client: %+v", e)
	}
	up := order{Kind: "tcp", URL: "10.96.0.2:8000", Body: "GET /upgrade HTTP/1.1\r\nHost: server.ns:8000\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"}
	if o := client.send(up); !strings.HasPrefix(o.Body, "HTTP/1.1 101") {
		t.Errorf("upgrade gave %+v", o)
	}
	unknown := request("/")
	unknown.Host = "unknown.example:8000"
	if o := client.send(unknown); o.Err != "" && o.Status == 0 {
		t.Errorf("a host that nobody knows goes where its address says: %+v", o)
	}
	noNacks(t, client, server)
}

func TestAdmin(t *testing.T) {
	_, client, server, _ := pair(t, "")
	eventually(t, client, "a request", answers(client, request("/logged"), 200, ""))
	dump, err := client.admin("config_dump?include_eds")
	must(t, err)
	wrapper := &configdump.Wrapper{}
	must(t, json.Unmarshal([]byte(dump), wrapper))
	clusters, err := wrapper.GetDynamicClusterDump(true)
	must(t, err)
	if len(clusters.GetDynamicActiveClusters()) < 5 {
		t.Errorf("%d clusters in the dump", len(clusters.GetDynamicActiveClusters()))
	}
	listeners, err := wrapper.GetListenerConfigDump()
	must(t, err)
	if len(listeners.GetDynamicListeners()) < 3 || len(listeners.GetStaticListeners()) != 2 {
		t.Errorf("listeners: %d dynamic, %d static", len(listeners.GetDynamicListeners()), len(listeners.GetStaticListeners()))
	}
	routes, err := wrapper.GetRouteConfigDump()
	must(t, err)
	if len(routes.GetDynamicRouteConfigs()) == 0 || len(routes.GetStaticRouteConfigs()) == 0 {
		t.Errorf("routes: %d dynamic, %d static", len(routes.GetDynamicRouteConfigs()), len(routes.GetStaticRouteConfigs()))
	}
	secrets, err := wrapper.GetSecretConfigDump()
	must(t, err)
	if len(secrets.GetDynamicActiveSecrets()) != 2 || strings.Contains(dump, "PRIVATE") {
		t.Errorf("secrets: %v", secrets)
	}
	for path, want := range map[string]string{
		"server_info":                   `"state": "LIVE"`,
		"clusters":                      "outbound|8000||server.ns.svc.cluster.local::10.9.0.2:8080::rq_success::",
		"clusters?format=json":          `"cluster_statuses"`,
		"listeners":                     "virtualInbound::0.0.0.0:15006",
		"certs":                         "spiffe://cluster.local/ns/ns/sa/client",
		"stats?usedonly&filter=^server": "server.state: 0",
		"stats/prometheus":              `istio_requests_total{reporter="source",source_workload="client"`,
		"ready":                         "LIVE",
		"memory":                        "allocated",
	} {
		got, err := client.admin(path)
		must(t, err)
		if !strings.Contains(got, want) {
			t.Errorf("/%s does not hold %q: %.2000s", path, want, got)
		}
	}
	got, err := server.admin("stats/prometheus")
	must(t, err)
	for _, want := range []string{
		`reporter="destination",source_workload="client"`, `destination_service="server.ns.svc.cluster.local"`,
		`connection_security_policy="mutual_tls"`, `source_principal="spiffe://cluster.local/ns/ns/sa/client"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("metrics of the server lack %s", want)
		}
	}
	got, err = client.admin("stats/prometheus")
	must(t, err)
	if !strings.Contains(got, `destination_workload="server"`) || !strings.Contains(got, `destination_principal="spiffe://cluster.local/ns/ns/sa/server"`) {
		t.Errorf("metrics of the client do not name the server's workload")
	}
	if e := client.get("http://127.0.0.1:15090/stats/prometheus"); e.Status != 200 {
		t.Errorf("port 15090 gave %+v", e)
	}
	eventually(t, client, "access logs of both sides", func() error {
		var b []byte
		for _, p := range []*pod{client, server} {
			one, err := os.ReadFile(filepath.Join(p.dir, "access.log"))
			if err != nil {
				return err
			}
			b = append(b, one...)
		}
		for _, want := range []string{
			`"GET /logged HTTP/1.1" 200 - via_upstream - "-" 0 `, `outbound|8000||server.ns.svc.cluster.local`, `inbound|8080||`,
			` invalid:outbound_.8000_._.server.ns.svc.cluster.local default`,
		} {
			if !strings.Contains(string(b), want) {
				return fmt.Errorf("no %q in\n%s", want, b)
			}
		}
		return nil
	})
}

func TestRotationAndRestart(t *testing.T) {
	w, client, server, _ := pair(t, "")
	eventually(t, client, "a request", answers(client, request("/"), 200, "sa/client"))
	stop := make(chan struct{})
	failed := make(chan string, 1)
	total := make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				total <- n
				return
			default:
			}
			o, err := client.order(request("/steady"))
			if err != nil || o.Status != 200 {
				select {
				case failed <- fmt.Sprintf("%+v %v", o, err):
				default:
				}
			}
			n++
		}
	}()
	for i := range 20 {
		client.rotate(w.ca)
		server.rotate(w.ca)
		undo := w.apply(fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: server, namespace: ns}
spec:
  hosts: [server.ns.svc.cluster.local]
  http:
  - headers: {request: {set: {x-turn: "%d"}}}
    route: [{destination: {host: server.ns.svc.cluster.local, port: {number: 8000}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: server, namespace: ns}
spec:
  host: server.ns.svc.cluster.local
  trafficPolicy: {connectionPool: {tcp: {connectTimeout: %dms}}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: turn, namespace: ns}
spec: {selector: {matchLabels: {app: server}}, mtls: {mode: %s}}
`, i, 1000+i, []string{"STRICT", "PERMISSIVE"}[i%2]))
		time.Sleep(100 * time.Millisecond)
		if i%5 == 4 {
			undo()
		}
	}
	close(stop)
	n := <-total
	select {
	case f := <-failed:
		t.Errorf("a request failed during configuration changes: %s", f)
	default:
	}
	if n < 50 {
		t.Errorf("only %d requests ran", n)
	}
	noNacks(t, client, server)
	must(t, server.proxy.Process.Signal(syscall.SIGTERM))
	done := make(chan error, 1)
	go func() { done <- server.proxy.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("still running 5 s after SIGTERM")
	}
	if o := client.send(request("/")); o.Status != 503 || !strings.Contains(o.Body, "upstream connect error") {
		t.Errorf("request to a pod without proxy gave %+v", o)
	}
}
