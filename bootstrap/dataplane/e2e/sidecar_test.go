package e2e

import (
	"strings"
	"testing"
)

const (
	httpPorts = "  - {name: http, port: 8000, targetPort: 8080, protocol: TCP}\n" +
		"  - {name: tcp-echo, port: 9000, targetPort: 9000, protocol: TCP}\n" +
		"  - {name: tcp-greet, port: 9001, targetPort: 9001, protocol: TCP}\n" +
		"  - {name: auto, port: 8888, targetPort: 8080, protocol: TCP}"
	slicePorts = "- {name: http, port: 8080, protocol: TCP}\n- {name: tcp-echo, port: 9000, protocol: TCP}\n" +
		"- {name: tcp-greet, port: 9001, protocol: TCP}\n- {name: auto, port: 8080, protocol: TCP}"
)

func TestSidecars(t *testing.T) {
	objects := podYAML("client", "10.9.0.1", true) + podYAML("server", "10.9.0.2", true) + podYAML("plain", "10.9.0.3", false) +
		serviceYAML("server", "10.96.0.2", httpPorts, slicePorts, [2]string{"server", "10.9.0.2"}) +
		serviceYAML("plain", "10.96.0.3", httpPorts, slicePorts, [2]string{"plain", "10.9.0.3"})
	w := newWorld(t, objects, "")
	server := w.start("server", "10.9.0.2", true)
	client := w.start("client", "10.9.0.1", true)
	plain := w.start("plain", "10.9.0.3", false)
	_ = server

	t.Run("http over mTLS", func(t *testing.T) {
		o := client.send(order{Kind: "http", Method: "GET", URL: "http://10.96.0.2:8000/hello?x=1", Host: "server.ns.svc.cluster.local:8000"})
		e := o.echo(t)
		xfcc := e.Headers.Get("X-Forwarded-Client-Cert")
		if e.Name != "server" || !strings.Contains(xfcc, "URI=spiffe://cluster.local/ns/ns/sa/client") ||
			!strings.Contains(xfcc, "By=spiffe://cluster.local/ns/ns/sa/server") {
			t.Errorf("application saw %+v", e)
		}
		if o.Header.Get("Server") != "envoy" || o.Header.Get("X-Envoy-Upstream-Service-Time") == "" {
			t.Errorf("response headers %v", o.Header)
		}
	})
	t.Run("tcp over mTLS, half-closed", func(t *testing.T) {
		o := client.send(order{Kind: "tcp", URL: "10.96.0.2:9000", Body: "ping", Half: true})
		if o.Body != "ping" || o.Err != "" {
			t.Errorf("echo gave %+v", o)
		}
	})
	t.Run("server speaks first", func(t *testing.T) {
		if o := client.send(order{Kind: "tcp", URL: "10.96.0.2:9001"}); o.Body != "welcome\n" {
			t.Errorf("got %+v", o)
		}
	})
	t.Run("plain text to a pod outside the mesh", func(t *testing.T) {
		o := client.send(order{Kind: "http", Method: "GET", URL: "http://10.96.0.3:8000/", Host: "plain.ns:8000"})
		if e := o.echo(t); e.Name != "plain" {
			t.Errorf("application saw %+v", e)
		}
	})
	t.Run("plain text from outside the mesh, permissive", func(t *testing.T) {
		if e := plain.get("http://10.9.0.2:8080/").echo(t); e.Name != "server" || e.Headers.Get("X-Forwarded-Client-Cert") != "" {
			t.Errorf("application saw %+v", e)
		}
	})
	t.Run("detected http", func(t *testing.T) {
		o := client.send(order{Kind: "http", Method: "POST", URL: "http://10.96.0.2:8888/p", Host: "server.ns:8888", Body: "data"})
		if e := o.echo(t); e.Body != "data" || e.Headers.Get("X-Forwarded-Client-Cert") == "" {
			t.Errorf("application saw %+v", e)
		}
	})
	t.Run("passthrough", func(t *testing.T) {
		if e := client.get("http://10.9.0.3:8080/raw").echo(t); e.Name != "plain" {
			t.Errorf("application saw %+v", e)
		}
	})
	t.Run("no nacks", func(t *testing.T) {
		for _, p := range []*pod{client, server} {
			s, err := p.admin("stats?filter=update_rejected&usedonly")
			must(t, err)
			if s != "" {
				t.Errorf("%s refused configuration:\n%s", p.name, s)
			}
		}
	})
}
