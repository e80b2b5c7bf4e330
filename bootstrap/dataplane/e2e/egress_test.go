package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOutboundPolicy(t *testing.T) {
	w, client, server, plain := pair(t, `
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: ns}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
`)
	_ = plain
	eventually(t, client, "a service of the mesh", answers(client, request("/"), 200, "sa/client"))
	eventually(t, client, "an unknown address is refused", func() error {
		if o := client.get("http://10.9.0.3:8080/raw"); o.Err == "" {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	unknown := request("/")
	unknown.Host = "nobody.example:8000"
	if o := client.send(unknown); o.Status != 502 {
		t.Errorf("an unknown host under REGISTRY_ONLY gave %+v", o)
	}
	w.apply(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: ns}
spec:
  hosts: [outside.example]
  addresses: [240.1.1.1]
  ports: [{number: 8000, name: http, protocol: HTTP}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{address: 10.9.0.3, ports: {http: 8080}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: tcp, namespace: ns}
spec:
  hosts: [tcp.example]
  addresses: [240.1.1.2]
  ports: [{number: 9000, name: tcp, protocol: TCP}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{address: 10.9.0.3}]
`)
	out := request("/out")
	out.URL, out.Host = "http://240.1.1.1:8000/out", "outside.example:8000"
	eventually(t, client, "a registered outside host", answers(client, out, 200, `"name":"plain"`))
	eventually(t, client, "a registered outside TCP service", func() error {
		if o := client.send(order{Kind: "tcp", URL: "240.1.1.2:9000", Body: "x", Half: true}); o.Body != "x" {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	undo := w.apply(`
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: server, namespace: ns}
spec:
  host: server.ns.svc.cluster.local
  trafficPolicy: {tls: {mode: DISABLE}}
`)
	eventually(t, client, "plain text where the rule says so", func() error {
		o := client.send(request("/"))
		if o.Status != 200 || strings.Contains(o.Body, "X-Forwarded-Client-Cert") {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	undo()
	eventually(t, client, "mTLS again", answers(client, request("/"), 200, "sa/client"))
	eventually(t, client, "the access log of TCP", func() error {
		b, err := os.ReadFile(filepath.Join(client.dir, "access.log"))
		if err != nil {
			return err
		}
		if !strings.Contains(string(b), `"- - -" 0 - - - "-" 1 1 `) || !strings.Contains(string(b), "BlackHoleCluster") {
			return fmt.Errorf("%s", b)
		}
		return nil
	})
	noNacks(t, client, server)
}
