package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	meshapi "istio.io/api/mesh/v1alpha1"
)

func TestStreamsThroughTwoProxies(t *testing.T) {
	ports := httpPorts + "\n  - {name: grpc, port: 7000, targetPort: 7000, protocol: TCP}"
	objects := podYAML("client", "10.9.0.1", true) + podYAML("server", "10.9.0.2", true) +
		serviceYAML("server", "10.96.0.2", ports, slicePorts+"\n- {name: grpc, port: 7000, protocol: TCP}", [2]string{"server", "10.9.0.2"})
	w := newWorld(t, objects, "")
	server, client := w.start("server", "10.9.0.2", true), w.start("client", "10.9.0.1", true)
	eventually(t, client, "client and bidirectional streams, trailers, trailers only", func() error {
		o, err := client.order(order{Kind: "streams", URL: "10.96.0.2:7000", Host: "server.ns:7000"})
		if err != nil || o.Err != "" || o.Body != "500000 EOF [yes] NotFound no 100%" {
			return fmt.Errorf("%+v %w", o, err)
		}
		return nil
	})
	w.apply(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: server, namespace: ns}
spec:
  hosts: [` + here + `]
  http:
  - match: [{port: 7000}]
    fault: {abort: {grpcStatus: RESOURCE_EXHAUSTED, percentage: {value: 100}}}
    route: [{destination: {host: ` + here + `, port: {number: 7000}}}]
  - route: [{destination: {host: ` + here + `, port: {number: 8000}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: server, namespace: ns}
spec: {host: ` + here + `, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}}
`)
	eventually(t, client, "a fault as gRPC clients see it", func() error {
		o := client.send(order{Kind: "grpc", URL: "10.96.0.2:7000", Host: "server.ns:7000"})
		if !strings.Contains(o.Err, "code = ResourceExhausted desc = fault filter abort") {
			return fmt.Errorf("%+v", o)
		}
		return nil
	})
	eventually(t, client, "HTTP/1.1 is carried over HTTP/2 where the rule says so", func() error {
		if o := client.send(request("/upgraded")); o.Status != 200 {
			return fmt.Errorf("%+v", o)
		}
		b, err := os.ReadFile(filepath.Join(server.dir, "access.log"))
		if err != nil || !strings.Contains(string(b), `"GET /upgraded HTTP/2" 200`) {
			return fmt.Errorf("%s %w", b, err)
		}
		return nil
	})
	noNacks(t, client, server)
}

func TestHTTP10(t *testing.T) {
	objects := podYAML("client", "10.9.0.1", true) + podYAML("server", "10.9.0.2", true) + podYAML("plain", "10.9.0.3", false) +
		serviceYAML("client", "10.96.0.1", httpPorts, slicePorts, [2]string{"client", "10.9.0.1"}) +
		serviceYAML("server", "10.96.0.2", httpPorts, slicePorts, [2]string{"server", "10.9.0.2"})
	w := newWorld(t, objects, "")
	plain := w.start("plain", "10.9.0.3", false)
	w.start("client", "10.9.0.1", true)
	server := &pod{w: w, name: "server", ip: "10.9.0.2", ns: "ns", dir: filepath.Join(w.dir, "server"), env: []string{"ISTIO_META_HTTP10=1"}}
	server.start(true)
	old := order{Kind: "tcp", URL: "10.9.0.1:8080", Body: "GET /old HTTP/1.0\r\nHost: h\r\n\r\n", Half: true}
	eventually(t, plain, "HTTP/1.0 is refused", func() error {
		if o := plain.send(old); !strings.HasPrefix(o.Body, "HTTP/1.1 426 ") {
			return fmt.Errorf("%+v", o)
		}
		return nil
	})
	old.URL = "10.9.0.2:8080"
	eventually(t, plain, "HTTP/1.0 is taken where the pod asks for it", func() error {
		if o := plain.send(old); !strings.HasPrefix(o.Body, "HTTP/1.1 200 ") || !strings.Contains(o.Body, `"path":"/old"`) || strings.Contains(o.Body, "chunked") {
			return fmt.Errorf("%+v", o)
		}
		return nil
	})
}

func TestTunnels(t *testing.T) {
	w, client, server, plain := pair(t, `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: proxy, namespace: ns}
spec:
  hosts: [proxy.example]
  addresses: [240.1.1.9]
  ports: [{number: 3128, name: tcp, protocol: TCP}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{address: 10.9.0.3}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out, namespace: ns}
spec:
  hosts: [out.example]
  addresses: [240.1.1.10]
  ports: [{number: 9000, name: tcp, protocol: TCP}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{address: 10.9.0.250}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: out, namespace: ns}
spec:
  hosts: [out.example]
  tcp:
  - match: [{port: 9000}]
    route: [{destination: {host: proxy.example, port: {number: 3128}}}]
`)
	for _, method := range []string{"CONNECT", "POST"} {
		w.apply(`
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: proxy, namespace: ns}
spec: {host: proxy.example, trafficPolicy: {tunnel: {protocol: ` + method + `, targetHost: out.example, targetPort: 9000}}}
`)
		eventually(t, client, "TCP through a forward proxy by "+method, func() error {
			o := client.send(order{Kind: "tcp", URL: "240.1.1.10:9000", Body: "through", Half: true})
			list := plain.heardAt("/proxied")
			if o.Body != "through" || len(list) == 0 || list[len(list)-1].Method != method || list[len(list)-1].Authority != "out.example:9000" {
				return fmt.Errorf("%+v; the proxy was asked %+v", o, list)
			}
			return nil
		})
	}
	noNacks(t, client, server)
}

const gatewayObjects = "  - {name: http, port: 80, targetPort: 8080, protocol: TCP}\n  - {name: web, port: 81, targetPort: 8081, protocol: TCP}"

func gatewayWorld(t *testing.T, configs string, tune func(*meshapi.ProxyConfig)) (w *world, plain, server, gw *pod) {
	t.Helper()
	ports := httpPorts + "\n  - {name: grpc, port: 7000, targetPort: 7000, protocol: TCP}"
	objects := podYAML("server", "10.9.0.2", true) + podYAML("gw", "10.9.0.4", true) + podYAML("plain", "10.9.0.3", false) +
		serviceYAML("server", "10.96.0.2", ports, slicePorts+"\n- {name: grpc, port: 7000, protocol: TCP}", [2]string{"server", "10.9.0.2"}) +
		serviceYAML("plain", "10.96.0.3", httpPorts, slicePorts, [2]string{"plain", "10.9.0.3"}) +
		serviceYAML("gw", "10.96.0.4", gatewayObjects, "- {name: http, port: 8080, protocol: TCP}\n- {name: web, port: 8081, protocol: TCP}", [2]string{"gw", "10.9.0.4"})
	w = newWorld(t, objects, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: ns}
spec:
  selector: {app: gw}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: 81, name: web, protocol: GRPC-WEB}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: ns}
spec:
  hosts: ["*"]
  gateways: [gw]
  http:
  - match: [{port: 81}]
    route: [{destination: {host: `+here+`, port: {number: 7000}}}]
  - name: main
    match: [{uri: {prefix: /}}]
    route: [{destination: {host: `+here+`, port: {number: 8000}}}]
`+configs)
	server, plain = w.start("server", "10.9.0.2", true), w.start("plain", "10.9.0.3", false)
	gw = &pod{w: w, name: "gw", ip: "10.9.0.4", ns: "ns", dir: filepath.Join(w.dir, "gw"), router: true, tune: tune}
	gw.start(true)
	return w, plain, server, gw
}

func atGateway(path string) order {
	return order{Kind: "http", Method: "GET", URL: "http://10.9.0.4:8080" + path, Host: "web.example", Header: map[string]string{}}
}

func TestGatewayBehindProxies(t *testing.T) {
	_, plain, server, gw := gatewayWorld(t, "", func(pc *meshapi.ProxyConfig) {
		pc.GatewayTopology = &meshapi.Topology{NumTrustedProxies: 2}
	})
	o := atGateway("/hops")
	o.Header = map[string]string{
		"X-Forwarded-For": "1.1.1.1, 2.2.2.2, 3.3.3.3", "X-Forwarded-Proto": "https", "X-Envoy-Retry-On": "5xx", "X-Envoy-Decorator-Operation": "x",
		"X-Request-Id": "theirs",
	}
	eventually(t, plain, "the gateway forwards", answers(plain, o, 200, ""))
	e := plain.send(o).echo(t)
	if e.Headers.Get("X-Envoy-External-Address") != "2.2.2.2" || e.Headers.Get("X-Forwarded-For") != "1.1.1.1, 2.2.2.2, 3.3.3.3,10.9.0.3" ||
		e.Headers.Get("X-Forwarded-Proto") != "https" || e.Headers.Get("X-Envoy-Retry-On") != "" || e.Headers.Get("X-Envoy-Decorator-Operation") == "x" ||
		e.Headers.Get("X-Request-Id") == "theirs" {
		t.Errorf("behind two proxies the server saw %v", e.Headers)
	}
	noNacks(t, server, gw)
}

func TestGRPCWebAtAGateway(t *testing.T) {
	_, plain, server, gw := gatewayWorld(t, "", nil)
	o := order{
		Kind: "http", Method: "POST", URL: "http://10.9.0.4:8081/grpc.health.v1.Health/Check", Host: "web.example",
		Header: map[string]string{"Content-Type": "application/grpc-web+proto"}, Body: "\x00\x00\x00\x00\x00",
	}
	eventually(t, plain, "a browser's call of a gRPC service", func() error {
		got := plain.send(o)
		if got.Status != 200 || got.Header.Get("Content-Type") != "application/grpc-web+proto" || !strings.HasPrefix(got.Body, "\x00\x00\x00\x00\x02\x08\x01") ||
			!strings.Contains(got.Body, "grpc-status:0\r\n") || !strings.Contains(got.Body, "x-pod:server\r\n") {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	o.Header["Content-Type"], o.Header["Accept"], o.Body = "application/grpc-web-text", "application/grpc-web-text", "AAAAAAA="
	if got := plain.send(o); got.Header.Get("Content-Type") != "application/grpc-web-text+proto" || !strings.HasPrefix(got.Body, "AAAAAAIIAQ") {
		t.Errorf("as text: %+v", got)
	}
	noNacks(t, server, gw)
}

func TestEnvoyFiltersOnRoutes(t *testing.T) {
	w, plain, server, gw := gatewayWorld(t, "", nil)
	eventually(t, plain, "the gateway forwards", answers(plain, atGateway("/"), 200, ""))
	w.apply(`
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: gw, namespace: ns}
spec:
  workloadSelector: {labels: {app: gw}}
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: GATEWAY, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: mutate
        disabled: true
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
          mutations:
            request_mutations: [{append: {header: {key: x-mutated, value: "%REQ(:METHOD)%"}}}]
            response_mutations: [{append: {header: {key: x-answered, value: "yes"}}}]
  - applyTo: HTTP_ROUTE
    match: {context: GATEWAY, routeConfiguration: {vhost: {route: {name: main}}}}
    patch:
      operation: MERGE
      value:
        typed_per_filter_config:
          mutate:
            "@type": type.googleapis.com/envoy.config.route.v3.FilterConfig
            config: {"@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute, mutations: {}}
  - applyTo: VIRTUAL_HOST
    match: {context: GATEWAY}
    patch:
      operation: MERGE
      value: {retry_policy: {retry_on: "5xx", num_retries: 1}, include_attempt_count_in_response: true}
  - applyTo: NETWORK_FILTER
    match: {context: GATEWAY, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
    patch:
      operation: MERGE
      value:
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          strip_any_host_port: true
          preserve_external_request_id: true
          server_header_transformation: PASS_THROUGH
          upgrade_configs: [{upgrade_type: CONNECT}]
`)
	o := atGateway("/m")
	o.Host, o.Header["X-Request-Id"] = "web.example:8080", "theirs"
	eventually(t, plain, "a filter that the route switches on", func() error {
		got := plain.send(o)
		if got.Header.Get("X-Answered") != "yes" {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	got := plain.send(o)
	if e := got.echo(t); e.Headers.Get("X-Mutated") != "GET" || e.Authority != "web.example" || e.Headers.Get("X-Request-Id") != "theirs" ||
		got.Header.Get("X-Envoy-Attempt-Count") != "1" {
		t.Errorf("server saw %+v, client %v", e, got.Header)
	}
	noNacks(t, server, gw)
	w.apply(`
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: connect, namespace: ns}
spec:
  workloadSelector: {labels: {app: gw}}
  configPatches:
  - applyTo: HTTP_ROUTE
    match: {context: GATEWAY, routeConfiguration: {vhost: {route: {name: main}}}}
    patch:
      operation: INSERT_FIRST
      value:
        name: connect
        match: {connect_matcher: {}}
        route: {cluster: "outbound|9000||plain.ns.svc.cluster.local", timeout: 0s, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}
`)
	eventually(t, plain, "CONNECT that ends at the gateway", func() error {
		got := plain.send(order{Kind: "tcp", URL: "10.9.0.4:8080", Body: "CONNECT web.example:80 HTTP/1.1\r\nHost: web.example:80\r\n\r\npayload", Half: true})
		if !strings.HasPrefix(got.Body, "HTTP/1.1 200 ") || !strings.HasSuffix(got.Body, "\r\n\r\npayload") {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	noNacks(t, server, gw)
}

func TestWebSocketThroughAGateway(t *testing.T) {
	_, plain, server, gw := gatewayWorld(t, "", nil)
	up := order{Kind: "tcp", URL: "10.9.0.4:8080", Half: true, Body: "GET /upgrade HTTP/1.1\r\nHost: web.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nframes"}
	eventually(t, plain, "a websocket through gateway and sidecar", func() error {
		if o := plain.send(up); !strings.HasPrefix(o.Body, "HTTP/1.1 101 ") || !strings.HasSuffix(o.Body, "\r\n\r\nframes") {
			return fmt.Errorf("%+v", o)
		}
		return nil
	})
	up.Body = strings.ReplaceAll(up.Body, "websocket", "something")
	if o := plain.send(up); !strings.HasPrefix(o.Body, "HTTP/1.1 403 ") {
		t.Errorf("an upgrade that nobody allows: %+v", o)
	}
	noNacks(t, server, gw)
}
