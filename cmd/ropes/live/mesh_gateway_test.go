//go:build live

package live

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// ca issues certificates.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newCA(t *testing.T, name string) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &ca{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (c *ca) issue(t *testing.T, names ...string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, &k.PublicKey, c.key)
	if err != nil {
		t.Fatal(err)
	}
	kb, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kb})
}

// secret is a Secret with a certificate, its key and, for mutual TLS, the CA of the clients.
func secret(ns, name string, cert, key, clients []byte) string {
	b := base64.StdEncoding.EncodeToString
	out := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\ndata:\n  tls.crt: %s\n  tls.key: %s\n", name, ns, b(cert), b(key))
	if clients != nil {
		out += "  ca.crt: " + b(clients) + "\n"
	}
	return out + "---\n"
}

func gateway(servers string) string {
	return `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front}
spec:
  selector: {istio: ingressgateway}
  servers:
` + servers + "\n---\n"
}

// front routes hosts of the gateway to a version of app.
func front(name, hosts, subset string) string {
	return `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ` + name + `}
spec:
  hosts: [` + hosts + `]
  gateways: [front]
  http: [{route: [{destination: {host: app, port: {number: 80}, subset: ` + subset + `}}]}]
---
`
}

const ingress = "istio-ingressgateway.istio-ingress.svc.cluster.local"

// at is a request to the gateway for a host.
func at(scheme, host string) order {
	port := map[string]string{"http": ":80", "https": ":443"}[scheme]
	o := get(scheme + "://" + host + "/")
	o.Address, o.TLS.ServerName = ingress+port, host
	return o
}

// meshGateways is traffic from outside of the mesh.
func meshGateways(t *testing.T, m *mesh) {
	m.apply(t, subsets)
	authority, clients := newCA(t, "front CA"), newCA(t, "client CA")
	cert := func(t *testing.T, host string, mutual bool) (string, string) {
		c, k := authority.issue(t, host)
		name := "front-" + strings.ReplaceAll(host, ".", "-")
		if mutual {
			return name, secret("istio-ingress", name, c, k, clients.pem)
		}
		return name, secret("istio-ingress", name, c, k, nil)
	}
	t.Run("HTTP with many hosts", func(t *testing.T) {
		m.apply(t, gateway(`  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [one.example, "*.two.example"]}`)+
			front("one", "one.example", "v1")+front("two", `"*.two.example"`, "v2"))
		m.stranger.want(t, at("http", "one.example"), code(200), from("v1"))
		m.stranger.want(t, at("http", "x.two.example"), code(200), from("v2"))
		m.stranger.want(t, at("http", "three.example"), that("no answer of app", func(o outcome) bool { return o.Err == "" && o.version() == "" }))
		m.stranger.want(t, at("http", "one.example"), that("the gateway's identity", func(o outcome) bool {
			return strings.Contains(o.echo().Headers.Get("X-Forwarded-Client-Cert"), "/ns/istio-ingress/sa/")
		}))
	})
	t.Run("simple TLS and redirect", func(t *testing.T) {
		name, sec := cert(t, "secure.example", false)
		name2, sec2 := cert(t, "second.example", false)
		m.apply(t, sec+sec2+gateway(`
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [secure.example], tls: {httpsRedirect: true}}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [secure.example], tls: {mode: SIMPLE, credentialName: `+name+`}}
  - {port: {number: 443, name: https-2, protocol: HTTPS}, hosts: [second.example], tls: {mode: SIMPLE, credentialName: `+name2+`, minProtocolVersion: TLSV1_3}}
`)+front("secure", "secure.example", "v1")+front("second", "second.example", "v2"))
		trusting := func(host string) order {
			o := at("https", host)
			o.TLS.CA = authority.pem
			return o
		}
		m.stranger.want(t, trusting("secure.example"), code(200), from("v1"), that("its certificate", func(o outcome) bool { return slices.Contains(o.Peer, "secure.example") }))
		m.stranger.want(t, trusting("second.example"), code(200), from("v2"))
		m.stranger.want(t, at("http", "secure.example"), code(301), header("Location", "https://secure.example/"))
		h2 := trusting("secure.example")
		h2.HTTP2 = true
		m.stranger.want(t, h2, code(200), that("HTTP/2", func(o outcome) bool { return o.Proto == "HTTP/2.0" }))
		// A new certificate is taken without a restart.
		fresh := newCA(t, "another CA")
		c, k := fresh.issue(t, "secure.example")
		m.apply(t, secret("istio-ingress", name, c, k, nil))
		renewed := trusting("secure.example")
		renewed.TLS.CA = fresh.pem
		m.stranger.want(t, renewed, code(200))
	})
	t.Run("mutual TLS", func(t *testing.T) {
		name, sec := cert(t, "mutual.example", true)
		m.apply(t, sec+gateway(`  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [mutual.example], tls: {mode: MUTUAL, credentialName: `+name+`}}`)+
			front("mutual", "mutual.example", "v1"))
		with := at("https", "mutual.example")
		with.TLS.CA = authority.pem
		with.TLS.Cert, with.TLS.Key = clients.issue(t, "visitor")
		m.stranger.want(t, with, code(200), from("v1"))
		without := at("https", "mutual.example")
		without.TLS.CA = authority.pem
		m.stranger.want(t, without, unanswered())
		strange := without
		strange.TLS.Cert, strange.TLS.Key = authority.issue(t, "impostor")
		m.stranger.want(t, strange, unanswered())
	})
	t.Run("passthrough", func(t *testing.T) {
		m.apply(t, gateway(`  - {port: {number: 443, name: tls, protocol: TLS}, hosts: [through.example], tls: {mode: PASSTHROUGH}}`)+`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: through}
spec:
  hosts: [through.example]
  gateways: [front]
  tls:
  - match: [{port: 443, sniHosts: [through.example]}]
    route: [{destination: {host: app, port: {number: 443}}}]
`)
		m.stranger.want(t, at("https", "through.example"), code(200), says(`"serverName": "through.example"`),
			that("the server's own certificate", func(o outcome) bool { return slices.Contains(o.Peer, "localhost") }))
		other := at("https", "other.example")
		m.stranger.want(t, other, unanswered())
	})
	t.Run("TCP and TLS ended at the gateway", func(t *testing.T) {
		name, sec := cert(t, "tcp.example", false)
		m.apply(t, sec+`
apiVersion: v1
kind: Service
metadata: {name: front-tcp, namespace: istio-ingress}
spec:
  selector: {istio: ingressgateway}
  ports: [{name: tcp, port: 31400, targetPort: 31400}, {name: tls, port: 31401, targetPort: 31401}]
---
`+gateway(`
  - {port: {number: 31400, name: tcp, protocol: TCP}, hosts: ["*"]}
  - {port: {number: 31401, name: tls, protocol: TLS}, hosts: [tcp.example], tls: {mode: SIMPLE, credentialName: `+name+`}}
`)+`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: front-tcp}
spec:
  hosts: ["*"]
  gateways: [front]
  tcp:
  - match: [{port: 31400}]
    route: [{destination: {host: app, port: {number: 9000}}}]
  - match: [{port: 31401}]
    route: [{destination: {host: app, port: {number: 9000}}}]
`)
		for port, secure := range map[string]bool{":31400": false, ":31401": true} {
			eventually(t, settle, func() error {
				got := m.stranger.raw(t, rawOrder{
					Address: "front-tcp.istio-ingress" + port, Secure: secure, TLS: orderTLS{ServerName: "tcp.example", CA: authority.pem},
					Send: []byte("ahoy"), Want: 4, WaitMS: 1500,
				})
				if string(got.Received) != "ahoy" {
					return fmt.Errorf("port %s gave %q %s", port, got.Received, got.Err)
				}
				return nil
			})
		}
	})
	t.Run("Ingress", func(t *testing.T) {
		m.apply(t, `
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: istio-live}
spec: {controller: istio.io/ingress-controller}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: app}
spec:
  ingressClassName: istio-live
  rules:
  - host: ingress.example
    http:
      paths:
      - {path: /only, pathType: Prefix, backend: {service: {name: app, port: {number: 80}}}}
`)
		o := at("http", "ingress.example")
		o.URL = "http://ingress.example/only/this"
		m.stranger.want(t, o, code(200), path("/only/this"))
		m.stranger.want(t, at("http", "ingress.example"), that("no answer of app", func(o outcome) bool { return o.Err == "" && o.version() == "" }))
	})
}
