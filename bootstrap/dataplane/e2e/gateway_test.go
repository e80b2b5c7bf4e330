package e2e

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

func TestGatewayAndGRPC(t *testing.T) {
	ports := httpPorts + "\n  - {name: grpc, port: 7000, targetPort: 7000, protocol: TCP}"
	slice := slicePorts + "\n- {name: grpc, port: 7000, protocol: TCP}"
	ca := newAuthority(t)
	cert, key := ca.issue(t, "spiffe://none/gateway")
	secret := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: web, namespace: ns}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n---\n",
		base64.StdEncoding.EncodeToString(cert), base64.StdEncoding.EncodeToString(key))
	objects := podYAML("client", "10.9.0.1", true) + podYAML("server", "10.9.0.2", true) + podYAML("gw", "10.9.0.4", true) +
		podYAML("plain", "10.9.0.3", false) + secret +
		serviceYAML("server", "10.96.0.2", ports, slice, [2]string{"server", "10.9.0.2"}) +
		serviceYAML("gw", "10.96.0.4", "  - {name: http, port: 80, targetPort: 8080, protocol: TCP}\n  - {name: https, port: 443, targetPort: 8443, protocol: TCP}",
			"- {name: http, port: 8080, protocol: TCP}\n- {name: https, port: 8443, protocol: TCP}", [2]string{"gw", "10.9.0.4"})
	w := newWorld(t, objects, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: ns}
spec:
  selector: {app: gw}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["web.example"]}
  - {port: {number: 80, name: redirect, protocol: HTTP}, hosts: ["secure.example"], tls: {httpsRedirect: true}}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: ["secure.example"], tls: {mode: SIMPLE, credentialName: web}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: ns}
spec:
  hosts: [web.example, secure.example]
  gateways: [gw]
  http:
  - match: [{uri: {prefix: /}}]
    route: [{destination: {host: server.ns.svc.cluster.local, port: {number: 8000}}}]
`)
	server := w.start("server", "10.9.0.2", true)
	client := w.start("client", "10.9.0.1", true)
	plain := w.start("plain", "10.9.0.3", false)
	gw := w.gateway("gw", "10.9.0.4")

	web := order{Kind: "http", Method: "GET", URL: "http://10.9.0.4:8080/w", Host: "web.example"}
	eventually(t, plain, "the gateway forwards", answers(plain, web, 200, "sa/gw"))
	o := plain.send(web)
	if e := o.echo(t); e.Name != "server" || e.Authority != "web.example" || e.Headers.Get("X-Forwarded-For") != "10.9.0.3" ||
		o.Header.Get("Server") != "istio-envoy" {
		t.Errorf("application saw %+v, response %v", e, o.Header)
	}
	web.Host = "nobody.example"
	if o := plain.send(web); o.Status != 404 {
		t.Errorf("unknown host gave %+v", o)
	}
	web.Host = "secure.example"
	if o := plain.send(web); o.Status != 301 || o.Header.Get("Location") != "https://secure.example/w" {
		t.Errorf("redirect to HTTPS gave %+v", o)
	}
	eventually(t, plain, "HTTPS with a certificate from a secret", answers(plain,
		order{Kind: "http", Method: "GET", URL: "https://10.9.0.4:8443/s", Host: "secure.example"}, 200, `"name":"server"`))
	if o := plain.send(order{Kind: "http", Method: "GET", URL: "https://10.9.0.4:8443/s", Host: "other.example"}); o.Err == "" {
		t.Errorf("HTTPS for a name that no server has gave %+v", o)
	}
	g := client.send(order{Kind: "grpc", URL: "10.96.0.2:7000", Host: "server.ns:7000"})
	if g.Body != "SERVING [server] NotFound 3" {
		t.Errorf("gRPC through two proxies gave %+v", g)
	}
	noNacks(t, client, server, gw)
	s, err := gw.admin("clusters")
	must(t, err)
	if !strings.Contains(s, "outbound|8000||server.ns.svc.cluster.local::10.9.0.2:8080") {
		t.Errorf("clusters of the gateway:\n%s", s)
	}
}
