package e2e

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// TestEgressGateway leads a client's plain HTTP for an outside host to an egress gateway by mTLS, which makes TLS of it.
func TestEgressGateway(t *testing.T) {
	outside := newAuthority(t)
	caSecret := func(ca *authority) string {
		return "apiVersion: v1\nkind: Secret\nmetadata: {name: outside-cacert, namespace: ns}\ndata: {cacert: " +
			base64.StdEncoding.EncodeToString(ca.pem) + "}\n---\n"
	}
	w := newWorld(t, behind()+podYAML("client", "10.9.0.1", true)+edge(443)+caSecret(outside), `
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: ns}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: ns}
spec:
  hosts: [outside.example]
  addresses: [240.1.1.1]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{address: 10.9.0.3, ports: {http: 8080, https: 9443}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress, namespace: ns}
spec:
  selector: {app: gw}
  servers:
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [outside.example], tls: {mode: ISTIO_MUTUAL}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: outside, namespace: ns}
spec:
  hosts: [outside.example]
  gateways: [mesh, egress]
  http:
  - match: [{gateways: [mesh], port: 80}]
    route: [{destination: {host: gw.ns.svc.cluster.local, subset: egress, port: {number: 443}}}]
  - match: [{gateways: [egress], port: 443}]
    route: [{destination: {host: outside.example, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: egress, namespace: ns}
spec:
  host: gw.ns.svc.cluster.local
  subsets:
  - name: egress
    trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: ISTIO_MUTUAL, sni: outside.example}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: outside, namespace: ns}
spec:
  host: outside.example
  workloadSelector: {matchLabels: {app: gw}}
  trafficPolicy:
    portLevelSettings:
    - {port: {number: 443}, tls: {mode: SIMPLE, credentialName: outside, sni: outside.example, subjectAltNames: ["spiffe://outside/server"]}}
`)
	w.withTLS("plain", outside, "spiffe://outside/server")
	plain := w.start("plain", "10.9.0.3", false)
	client := w.start("client", "10.9.0.1", true)
	gw := w.gateway("gw", "10.9.0.4")

	o := order{Kind: "http", Method: "GET", URL: "http://240.1.1.1:80/out", Host: "outside.example"}
	eventually(t, client, "TLS to the outside by way of the gateway", answers(client, o, 200, `"X-Tls-Sni":["outside.example"]`))
	got := client.send(o)
	if e := got.echo(t); e.Name != "plain" || e.Authority != "outside.example" || !strings.Contains(got.Body, `"remote":"10.9.0.4:`) ||
		e.Headers.Get("X-Tls-Client") != "none" {
		t.Errorf("the outside saw %s", got.Body)
	}
	if o := client.get("http://10.9.0.3:8080/around"); o.Err == "" {
		t.Errorf("an address that is not registered, under REGISTRY_ONLY: %+v", o)
	}
	noNacks(t, client, gw)
	_ = plain
}

// TestIngress is the Ingress resource of Kubernetes.
func TestIngress(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue(t, "spiffe://edge/ingress")
	gateway := strings.Replace(edge(80, 443), "app: gw\n", "app: gw\n    istio: ingressgateway\n", 1)
	w := newWorld(t, behind()+gateway+secretYAML("web", cert, key, nil)+`
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: istio}
spec: {controller: istio.io/ingress-controller}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: ns}
spec:
  ingressClassName: istio
  tls: [{hosts: [web.example], secretName: web}]
  rules:
  - host: web.example
    http:
      paths:
      - {path: /exact, pathType: Exact, backend: {service: {name: plain, port: {number: 8000}}}}
      - {path: /, pathType: Prefix, backend: {service: {name: server, port: {number: 8000}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: others, namespace: ns}
spec:
  ingressClassName: somebody-else
  rules:
  - host: others.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: server, port: {number: 8000}}}}]}
---
`, "")
	server, plain := w.start("server", "10.9.0.2", true), w.start("plain", "10.9.0.3", false)
	gw := &pod{w: w, name: "gw", ip: "10.9.0.4", ns: "ns", router: true, dir: w.dir + "/gw", env: []string{
		`ISTIO_METAJSON_LABELS={"app":"gw","istio":"ingressgateway","service.istio.io/canonical-name":"gw"}`,
	}}
	gw.start(true)
	at := func(host, path string) order {
		return order{Kind: "http", Method: "GET", URL: "http://10.9.0.4:8080" + path, Host: host}
	}
	eventually(t, plain, "a prefix", answers(plain, at("web.example", "/any"), 200, `"name":"server"`))
	eventually(t, plain, "an exact path", answers(plain, at("web.example", "/exact"), 200, `"name":"plain"`))
	eventually(t, plain, "more than the exact path", answers(plain, at("web.example", "/exact/more"), 200, `"name":"server"`))
	eventually(t, plain, "TLS", shown(plain, secure("10.9.0.4:8443", "web.example", tlsOptions{}), "spiffe://edge/ingress", `"name":"server"`))
	if o := plain.send(at("others.example", "/")); o.Status != 404 {
		t.Errorf("an Ingress of another class: %+v", o)
	}
	noNacks(t, server, gw)
}

// TestProxyProtocolToAnOutsideServer has the sidecar tell a server outside the mesh whose connection it passes on.
func TestProxyProtocolToAnOutsideServer(t *testing.T) {
	w, client, server, plain := pair(t, `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: ns}
spec:
  hosts: [outside.example]
  addresses: [240.1.1.2]
  ports: [{number: 9000, name: tcp, protocol: TCP}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{address: 10.9.0.3}]
`)
	o := order{Kind: "tcp", URL: "240.1.1.2:9000", Body: "hello\n", Half: true}
	eventually(t, client, "the server, which echoes", answers(client, o, 0, "hello\n"))
	for version, header := range map[string]string{"V1": "PROXY TCP4 10.9.0.1 240.1.1.2 ", "V2": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x09\x00\x01"} {
		w.apply(`
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: outside, namespace: ns}
spec: {host: outside.example, trafficPolicy: {proxyProtocol: {version: ` + version + `}}}
`)
		eventually(t, client, version, func() error {
			if got := client.send(o); !strings.HasPrefix(got.Body, header) || !strings.HasSuffix(got.Body, "hello\n") {
				return fmt.Errorf("the server heard %+v", got)
			}
			return nil
		})
	}
	noNacks(t, client, server)
	_ = plain
}
