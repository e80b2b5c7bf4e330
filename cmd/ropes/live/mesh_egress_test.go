//go:build live

package live

import (
	"strings"
	"testing"
)

const outside = "outside.outside.svc.cluster.local"

// external is a ServiceEntry for a name that DNS does not know, which stands for the server outside of the mesh.
func external(host, more string) string {
	return `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ` + strings.ReplaceAll(host, ".", "-") + `}
spec:
  hosts: [` + host + `]
` + more + "\n---\n"
}

// unroutable is a request to an address that only the proxy makes something of. Until the proxy knows what, the packets
// go nowhere, which must not take most of the time that the proxy has for it.
func unroutable(url, address string) order {
	o := get(url)
	o.Address, o.TimeoutMS = address, 2000
	return o
}

// meshEgress is traffic out of the mesh.
func meshEgress(t *testing.T, m *mesh) {
	stub := m.mustPod(t, "mesh-out", "app=stub").Status.PodIP
	onlyRegistered := `
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: client}
spec:
  workloadSelector: {labels: {app: client}}
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
---
`
	unknown := get("http://" + stub + ":8080/")
	t.Run("anything goes", func(t *testing.T) { m.client.want(t, unknown, code(200)) })
	t.Run("only what is registered", func(t *testing.T) {
		m.apply(t, onlyRegistered)
		m.client.want(t, unknown, unanswered())
		m.client.want(t, get("http://"+stub+"/"), code(502)) // on a port that the mesh knows as HTTP
		m.client.want(t, get("http://app/"), code(200))
		m.apply(t, external("stub.example", `
  ports: [{number: 8080, name: http, protocol: HTTP}]
  addresses: [`+stub+`]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{address: `+stub+`}]`))
		o := unknown
		o.Host = "stub.example:8080"
		m.client.want(t, o, code(200))
	})
	t.Run("names by DNS", func(t *testing.T) {
		m.apply(t, onlyRegistered+external("named.example", `
  ports: [{number: 80, name: http, protocol: HTTP}]
  location: MESH_EXTERNAL
  resolution: DNS
  endpoints: [{address: `+outside+`}]`))
		m.client.want(t, unroutable("http://named.example/", "240.9.9.9:80"), code(200), says(`"beyond": "the mesh"`))
	})
	t.Run("TLS originated by the sidecar", func(t *testing.T) {
		m.apply(t, external("secure-outside.example", `
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}]
  location: MESH_EXTERNAL
  resolution: DNS
  endpoints: [{address: `+outside+`}]`)+`
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: secure-outside}
spec:
  host: secure-outside.example
  trafficPolicy: {tls: {mode: SIMPLE, sni: sni.example, insecureSkipVerify: true}}
`)
		m.client.want(t, unroutable("http://secure-outside.example/", "240.9.9.9:80"), code(200), says(`"serverName": "sni.example"`))
	})
	t.Run("through the egress gateway with TLS originated there", func(t *testing.T) {
		m.apply(t, onlyRegistered+external("far.example", `
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 443, name: https, protocol: HTTPS}
  location: MESH_EXTERNAL
  resolution: DNS
  endpoints: [{address: `+outside+`}]`)+`
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: way-out}
spec:
  selector: {istio: egressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [far.example]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: far}
spec:
  hosts: [far.example]
  gateways: [mesh, way-out]
  http:
  - match: [{gateways: [mesh], port: 80}]
    route: [{destination: {host: istio-egressgateway.istio-egress.svc.cluster.local, port: {number: 80}}}]
  - match: [{gateways: [way-out], port: 80}]
    headers: {request: {set: {x-passed: egress}}}
    route: [{destination: {host: far.example, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: far}
spec:
  host: far.example
  trafficPolicy:
    portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE, sni: far.example, insecureSkipVerify: true}}]
`)
		m.client.want(t, unroutable("http://far.example/", "240.9.9.9:80"), code(200), heard("x-passed", "egress"), says(`"serverName": "far.example"`))
	})
	t.Run("names by the agent's DNS proxy", func(t *testing.T) {
		m.apply(t, `
apiVersion: v1
kind: Pod
metadata:
  name: dns-proxied
  namespace: mesh
  labels: {app: dns-proxied}
  annotations: {proxy.istio.io/config: "proxyMetadata: {ISTIO_META_DNS_CAPTURE: \"true\"}"}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: relay, image: "ropes.local/app:v1", command: [relay]}]
`)
		m.apply(t, external("resolved-by-agent.example", `
  ports: [{number: 80, name: http, protocol: HTTP}]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{address: `+stub+`, ports: {http: 8080}}]`))
		r := m.relayIn(t, "mesh", "app=dns-proxied")
		r.want(t, get("http://resolved-by-agent.example/"), code(200), that("the stub", func(o outcome) bool { return strings.HasPrefix(o.echo().Hostname, "stub-") }))
		if got := m.client.fetch(t, get("http://resolved-by-agent.example/")); got.Err == "" {
			t.Errorf("without the agent's DNS proxy the name resolves: %s", got)
		}
	})
	t.Run("what a Sidecar does not import", func(t *testing.T) {
		m.apply(t, `
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: client}
spec:
  workloadSelector: {labels: {app: client}}
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress: [{hosts: ["./app.mesh.svc.cluster.local", "istio-system/*"]}]
`)
		m.client.want(t, get("http://mirror/"), code(502))
		m.client.want(t, get("http://app/"), code(200))
		if got := m.other.fetch(t, get("http://mirror.mesh/")); got.Status != 200 {
			t.Errorf("another workload is limited too: %s", got)
		}
	})
	t.Run("ingress listeners of a Sidecar", func(t *testing.T) {
		m.apply(t, `
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: mirror}
spec:
  workloadSelector: {labels: {app: mirror}}
  ingress: [{port: {number: 8080, protocol: HTTP, name: http}, defaultEndpoint: "127.0.0.1:7001"}]
`)
		m.client.want(t, get("http://mirror/script"), code(200), that("the control port's answer", func(o outcome) bool {
			return strings.TrimSpace(string(o.Body)) == "null" || strings.HasPrefix(string(o.Body), "[")
		}))
	})
}
