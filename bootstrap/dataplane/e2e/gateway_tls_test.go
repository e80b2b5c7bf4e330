package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	meshapi "istio.io/api/mesh/v1alpha1"
)

// secretYAML is a secret of a certificate; ca, where given, is what clients are checked against.
func secretYAML(name string, cert, key, ca []byte) string {
	data := fmt.Sprintf("tls.crt: %s, tls.key: %s", base64.StdEncoding.EncodeToString(cert), base64.StdEncoding.EncodeToString(key))
	if ca != nil {
		data += ", ca.crt: " + base64.StdEncoding.EncodeToString(ca)
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: ns}\ntype: kubernetes.io/tls\ndata: {%s}\n---\n", name, data)
}

// edge is a service of a gateway pod gw whose ports are behind the given numbers.
func edge(ports ...int) string {
	var svc, slice []string
	for _, p := range ports {
		svc = append(svc, fmt.Sprintf("  - {name: tcp-%d, port: %d, targetPort: %d, protocol: TCP}", p, p, p+8000))
		slice = append(slice, fmt.Sprintf("- {name: tcp-%d, port: %d, protocol: TCP}", p, p+8000))
	}
	return podYAML("gw", "10.9.0.4", true) +
		serviceYAML("gw", "10.96.0.4", strings.Join(svc, "\n"), strings.Join(slice, "\n"), [2]string{"gw", "10.9.0.4"})
}

// behind are a server in the mesh and an outside one with TLS, as services.
func behind() string {
	ports := httpPorts + "\n  - {name: tls, port: 9443, targetPort: 9443, protocol: TCP}\n  - {name: tcp-echo, port: 9009, targetPort: 9000, protocol: TCP}"
	slice := slicePorts + "\n- {name: tls, port: 9443, protocol: TCP}\n- {name: tcp-echo, port: 9000, protocol: TCP}"
	return podYAML("server", "10.9.0.2", true) + podYAML("plain", "10.9.0.3", false) +
		serviceYAML("server", "10.96.0.2", httpPorts, slicePorts, [2]string{"server", "10.9.0.2"}) +
		serviceYAML("plain", "10.96.0.3", ports, slice, [2]string{"plain", "10.9.0.3"})
}

// withTLS gives a pod that is not started yet a certificate for its TLS port.
func (w *world) withTLS(name string, ca *authority, uri string) {
	w.t.Helper()
	dir := filepath.Join(w.dir, name)
	must(w.t, os.MkdirAll(dir, 0o755))
	cert, key := ca.issue(w.t, uri)
	must(w.t, os.WriteFile(filepath.Join(dir, "tls.crt"), cert, 0o644))
	must(w.t, os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o644))
}

func secure(addr, host string, opts tlsOptions) order {
	opts.SNI = host
	return order{Kind: "tls", URL: addr, Host: host, Body: "/s", Secure: opts}
}

// shown wants the server's certificate to be uri's and, where given, the answer to contain body.
func shown(p *pod, o order, uri, body string) func() error {
	return func() error {
		got, err := p.order(o)
		if err != nil {
			return err
		}
		if got.Err != "" || got.Header.Get("X-Peer") != uri || !strings.Contains(got.Body, body) {
			return fmt.Errorf("want the certificate of %q and %q, got %+v", uri, body, got)
		}
		return nil
	}
}

func TestGatewayTLSModes(t *testing.T) {
	ca, foreign := newAuthority(t), newAuthority(t)
	certA, keyA := ca.issue(t, "spiffe://edge/a")
	certB, keyB := ca.issue(t, "spiffe://edge/b")
	objects := behind() + edge(443, 31) + secretYAML("a", certA, keyA, nil) + secretYAML("b", certB, keyB, nil) + secretYAML("m", certA, keyA, ca.pem)
	w := newWorld(t, objects, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: ns}
spec:
  selector: {app: gw}
  servers:
  - {port: {number: 443, name: https-a, protocol: HTTPS}, hosts: [a.example], tls: {mode: SIMPLE, credentialName: a}}
  - {port: {number: 443, name: https-b, protocol: HTTPS}, hosts: [b.example, "*.b.example"], tls: {mode: SIMPLE, credentialName: b}}
  - {port: {number: 443, name: https-m, protocol: HTTPS}, hosts: [mutual.example], tls: {mode: MUTUAL, credentialName: m}}
  - {port: {number: 443, name: https-o, protocol: HTTPS}, hosts: [optional.example], tls: {mode: OPTIONAL_MUTUAL, credentialName: m}}
  - {port: {number: 443, name: tls-p, protocol: TLS}, hosts: [pass.example], tls: {mode: PASSTHROUGH}}
  - {port: {number: 443, name: tls-t, protocol: TLS}, hosts: [term.example], tls: {mode: SIMPLE, credentialName: b}}
  - {port: {number: 31, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: ns}
spec:
  hosts: [a.example, b.example, "*.b.example", mutual.example, optional.example]
  gateways: [gw]
  http: [{route: [{destination: {host: server.ns.svc.cluster.local, port: {number: 8000}}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bytes, namespace: ns}
spec:
  hosts: [pass.example, term.example]
  gateways: [gw]
  tls: [{match: [{port: 443, sniHosts: [pass.example]}], route: [{destination: {host: plain.ns.svc.cluster.local, port: {number: 9443}}}]}]
  tcp: [{match: [{port: 443}], route: [{destination: {host: plain.ns.svc.cluster.local, port: {number: 9009}}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo, namespace: ns}
spec:
  hosts: ["*"]
  gateways: [gw]
  tcp: [{match: [{port: 31}], route: [{destination: {host: plain.ns.svc.cluster.local, port: {number: 9009}}}]}]
`)
	w.withTLS("plain", ca, "spiffe://edge/backend")
	server, plain := w.start("server", "10.9.0.2", true), w.start("plain", "10.9.0.3", false)
	gw := w.gateway("gw", "10.9.0.4")
	const at = "10.9.0.4:8443"

	eventually(t, plain, "SIMPLE", shown(plain, secure(at, "a.example", tlsOptions{}), "spiffe://edge/a", `"name":"server"`))
	eventually(t, plain, "another host on the port", shown(plain, secure(at, "b.example", tlsOptions{}), "spiffe://edge/b", `"name":"server"`))
	eventually(t, plain, "a host under a wildcard", shown(plain, secure(at, "x.b.example", tlsOptions{}), "spiffe://edge/b", `"name":"server"`))
	for _, alpn := range []string{"h2", "http/1.1"} {
		if o := plain.send(secure(at, "a.example", tlsOptions{ALPN: []string{alpn}, Raw: true})); o.Header.Get("X-Alpn") != alpn {
			t.Errorf("ALPN %s: %+v", alpn, o)
		}
	}
	if o := plain.send(secure(at, "unknown.example", tlsOptions{})); o.Err == "" {
		t.Errorf("a name that no server has: %+v", o)
	}

	if o := plain.send(secure(at, "mutual.example", tlsOptions{})); o.Err == "" {
		t.Errorf("MUTUAL without a certificate: %+v", o)
	}
	cert, key := foreign.issue(t, "spiffe://edge/me")
	if o := plain.send(secure(at, "mutual.example", tlsOptions{Cert: string(cert), Key: string(key)})); o.Err == "" {
		t.Errorf("MUTUAL with a foreign certificate: %+v", o)
	}
	cert, key = ca.issue(t, "spiffe://edge/me")
	mine := tlsOptions{Cert: string(cert), Key: string(key)}
	eventually(t, plain, "MUTUAL", shown(plain, secure(at, "mutual.example", mine), "spiffe://edge/a", "URI=spiffe://edge/me"))
	eventually(t, plain, "OPTIONAL_MUTUAL with a certificate", shown(plain, secure(at, "optional.example", mine), "spiffe://edge/a", "URI=spiffe://edge/me"))
	eventually(t, plain, "OPTIONAL_MUTUAL without one", shown(plain, secure(at, "optional.example", tlsOptions{}), "spiffe://edge/a", `"name":"server"`))

	eventually(t, plain, "PASSTHROUGH", shown(plain, secure(at, "pass.example", mine), "spiffe://edge/backend", `"X-Tls-Client":["spiffe://edge/me"]`))
	bytes := secure(at, "term.example", tlsOptions{Raw: true})
	bytes.Body = "hello\n"
	eventually(t, plain, "TLS ended at the gateway", shown(plain, bytes, "spiffe://edge/b", "hello\n"))
	eventually(t, plain, "TCP", func() error {
		if o := plain.send(order{Kind: "tcp", URL: "10.9.0.4:8031", Body: "hello\n"}); o.Body != "hello\n" {
			return fmt.Errorf("%+v", o)
		}
		return nil
	})
	noNacks(t, server, gw)
}

func TestGatewayAutoPassthrough(t *testing.T) {
	w := newWorld(t, behind()+edge(7443), `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: ns}
spec:
  selector: {app: gw}
  servers:
  - {port: {number: 7443, name: tls, protocol: TLS}, hosts: ["*.local"], tls: {mode: AUTO_PASSTHROUGH}}
`)
	server, plain := w.start("server", "10.9.0.2", true), w.start("plain", "10.9.0.3", false)
	gw := w.gateway("gw", "10.9.0.4")
	// As the sidecar of another network sends it: mTLS from end to end, the service in the server name.
	cert, key := w.ca.issue(t, "spiffe://cluster.local/ns/ns/sa/far")
	far := order{Kind: "tls", URL: "10.9.0.4:15443", Host: "server.ns:8000", Body: "/far", Secure: tlsOptions{
		SNI: "outbound_.8000_._.server.ns.svc.cluster.local", Cert: string(cert), Key: string(key), ALPN: []string{"istio-http/1.1", "istio", "http/1.1"},
	}}
	eventually(t, plain, "mTLS through the gateway", shown(plain, far, "spiffe://cluster.local/ns/ns/sa/server", "URI=spiffe://cluster.local/ns/ns/sa/far"))
	far.Secure.SNI = "outbound_.9999_._.server.ns.svc.cluster.local"
	if o := plain.send(far); o.Err == "" {
		t.Errorf("a port that the service does not have: %+v", o)
	}
	noNacks(t, server, gw)
}

func TestGatewayProxyProtocol(t *testing.T) {
	_, plain, server, gw := gatewayWorld(t, "", func(pc *meshapi.ProxyConfig) {
		pc.GatewayTopology = &meshapi.Topology{ProxyProtocol: &meshapi.Topology_ProxyProtocolConfiguration{}}
	})
	v2 := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x09\x0a\x09\x00\x04\x04\xd2\x1f\x90"
	for _, header := range []string{"PROXY TCP4 192.0.2.9 10.9.0.4 1234 8080\r\n", v2} {
		o := order{Kind: "tls", URL: "10.9.0.4:8080", Host: "web.example", Body: "/p", Secure: tlsOptions{Plain: true, Prefix: []byte(header)}}
		eventually(t, plain, "the client that the header names", answers(plain, o, 200, `"X-Forwarded-For":["192.0.2.9"]`))
	}
	if o := plain.send(atGateway("/none")); o.Err == "" {
		t.Errorf("without a header: %+v", o)
	}
	noNacks(t, server, gw)
}
