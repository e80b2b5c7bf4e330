//go:build live

package live

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"
)

// subsets are the versions of app that routes name.
const subsets = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: app}
spec:
  host: app.mesh.svc.cluster.local
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
`

// virtual is a VirtualService for app with HTTP routes, which stand indented by two.
func virtual(routes string) string {
	return `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app.mesh.svc.cluster.local]
  http:
` + routes
}

// toV2 sends what matches to v2 and the rest to v1.
func toV2(match string) string {
	return virtual(`
  - match: [` + match + `]
    route: [{destination: {host: app, subset: v2}}]
  - route: [{destination: {host: app, subset: v1}}]
`)
}

// nowhere are the routes of app between two cases: an answer of app shows that those of a case are in force.
var nowhere = virtual("  - directResponse: {status: 299}\n")

// route puts routes of app in force until the end of the test, in place of nowhere.
func (m *mesh) route(t *testing.T, config string) {
	t.Helper()
	put := func(text string) {
		for _, u := range documents(t, text) {
			if err := m.put(context.WithoutCancel(t.Context()), u); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(config)
	t.Cleanup(func() {
		put(nowhere)
		for end := time.Now().Add(settle); time.Now().Before(end); time.Sleep(30 * time.Millisecond) {
			if m.client.fetch(t, get("http://app/")).Status == 299 {
				return
			}
		}
		t.Error("the routes of the case stay")
	})
}

// asked is a request and what must come of it.
type asked struct {
	order order
	want  []func(outcome) error
}

func meshRoutes(t *testing.T, m *mesh) {
	m.apply(t, subsets+"---"+nowhere)
	m.client.want(t, get("http://app/"), code(299))
	app := func(path string, headers ...string) order { return get("http://app"+path, headers...) }
	hosted := func(o order, host string) order { o.Host = host; return o }
	method := func(o order, name string) order { o.Method = name; return o }
	v1, v2 := []func(outcome) error{code(200), from("v1")}, []func(outcome) error{code(200), from("v2")}
	for name, tc := range map[string]struct {
		config string
		asked  []asked
	}{
		"path exact": {toV2(`{uri: {exact: /a}}`), []asked{
			{app("/a"), v2}, {app("/a?q=1"), v2}, {app("/ab"), v1}, {app("/A"), v1},
		}},
		"path prefix": {toV2(`{uri: {prefix: /a/}}`), []asked{{app("/a/b"), v2}, {app("/a"), v1}, {app("/b/a/"), v1}}},
		"path regex": {toV2(`{uri: {regex: "/items/[0-9]+(/.*)?"}}`), []asked{
			{app("/items/12"), v2}, {app("/items/12/x"), v2}, {app("/items/x"), v1}, {app("/x/items/12"), v1},
		}},
		"path regardless of case": {toV2(`{uri: {prefix: /aB}, ignoreUriCase: true}`), []asked{{app("/AbC"), v2}, {app("/b"), v1}}},
		"header exact":            {toV2(`{headers: {end-user: {exact: jason}}}`), []asked{{app("/", "end-user", "jason"), v2}, {app("/", "end-user", "jasonx"), v1}, {app("/"), v1}}},
		"header prefix":           {toV2(`{headers: {x-v: {prefix: ab}}}`), []asked{{app("/", "x-v", "abc"), v2}, {app("/", "x-v", "cab"), v1}}},
		"header regex":            {toV2(`{headers: {x-v: {regex: "(a|b)[0-9]"}}}`), []asked{{app("/", "x-v", "b7"), v2}, {app("/", "x-v", "b77"), v1}}},
		"header present":          {toV2(`{headers: {x-v: {}}}`), []asked{{app("/", "x-v", "any"), v2}, {app("/"), v1}}},
		"header absent":           {toV2(`{withoutHeaders: {x-v: {}}}`), []asked{{app("/"), v2}, {app("/", "x-v", "1"), v1}}},
		"cookie":                  {toV2(`{headers: {cookie: {regex: "^(.*;\\s*)?user=tester(;.*)?$"}}}`), []asked{{app("/", "cookie", "a=b; user=tester"), v2}, {app("/", "cookie", "user=x"), v1}}},
		"query":                   {toV2(`{queryParams: {beta: {exact: "1"}}}`), []asked{{app("/?beta=1"), v2}, {app("/?x=y&beta=1"), v2}, {app("/?beta=2"), v1}, {app("/"), v1}}},
		"query regex":             {toV2(`{queryParams: {id: {regex: "[0-9]+"}}}`), []asked{{app("/?id=42"), v2}, {app("/?id=x"), v1}}},
		"method":                  {toV2(`{method: {exact: PUT}}`), []asked{{method(app("/"), "PUT"), v2}, {method(app("/"), "POST"), v1}}},
		"authority":               {toV2(`{authority: {exact: app.mesh}}`), []asked{{hosted(app("/"), "app.mesh"), v2}, {app("/"), v1}}},
		"scheme":                  {toV2(`{scheme: {exact: http}}`), []asked{{app("/"), v2}}},
		"all and any": {toV2(`{uri: {prefix: /a}, headers: {x: {exact: "1"}}}, {uri: {exact: /b}}`), []asked{
			{app("/a", "x", "1"), v2}, {app("/a"), v1}, {app("/", "x", "1"), v1}, {app("/b"), v2},
		}},
		"port": {toV2(`{port: 81}`), []asked{{get("http://app:81/"), v2}, {app("/"), v1}}},
		"redirect": {virtual(`
  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new, authority: elsewhere.example, redirectCode: 302}
  - match: [{uri: {prefix: /secure}}]
    redirect: {scheme: https, port: 8443}
  - route: [{destination: {host: app, subset: v1}}]
`), []asked{
			{app("/old/x?q=1"), []func(outcome) error{code(302), header("Location", "http://elsewhere.example/new?q=1")}},
			{app("/secure/x?q=1"), []func(outcome) error{code(301), header("Location", "https://app:8443/secure/x?q=1")}},
			{app("/"), v1},
		}},
		"rewrite": {virtual(`
  - match: [{uri: {prefix: /api}}]
    rewrite: {uri: /v1, authority: inner.example}
    route: [{destination: {host: app, subset: v1}}]
  - match: [{uri: {prefix: /re/}}]
    rewrite: {uriRegexRewrite: {match: "^/re/([^/]+)/(.*)$", rewrite: "/\\2/\\1"}}
    route: [{destination: {host: app, subset: v1}}]
  - route: [{destination: {host: app, subset: v2}}]
`), []asked{
			{app("/api/x?q=1"), []func(outcome) error{code(200), from("v1"), path("/v1/x"), that("the host rewritten", func(o outcome) bool { return o.echo().Host == "inner.example" }), that("the query kept", func(o outcome) bool { return o.echo().Query == "q=1" })}},
			{app("/re/a/b/c"), []func(outcome) error{code(200), path("/b/c/a")}},
			{app("/x"), v2},
		}},
		"direct response": {virtual(`
  - match: [{uri: {prefix: /teapot}}]
    directResponse: {status: 418, body: {string: "short and stout"}}
  - route: [{destination: {host: app, subset: v1}}]
`), []asked{{app("/teapot"), []func(outcome) error{code(418), says("short and stout")}}, {app("/"), v1}}},
		"headers": {virtual(`
  - headers:
      request: {set: {x-set: "1"}, add: {x-add: "2"}, remove: [x-gone]}
      response: {set: {x-answer: yes-it-is}, add: {x-more: "3"}}
    route:
    - destination: {host: app, subset: v1}
      headers: {request: {set: {x-leg: v1}}, response: {remove: [content-type]}}
`), []asked{{app("/", "x-set", "old", "x-add", "1", "x-gone", "here"), []func(outcome) error{
			code(200), heard("x-set", "1"), heard("x-add", "1|2"), heard("x-gone", ""), heard("x-leg", "v1"),
			header("x-answer", "yes-it-is"), header("x-more", "3"), header("content-type", ""),
		}}}},
		"abort": {virtual(`
  - match: [{headers: {x-bad: {exact: "1"}}}]
    fault: {abort: {httpStatus: 555, percentage: {value: 100}}}
    route: [{destination: {host: app, subset: v1}}]
  - route: [{destination: {host: app, subset: v1}}]
`), []asked{{app("/", "x-bad", "1"), []func(outcome) error{code(555), says("fault filter abort")}}, {app("/"), v1}}},
		"delay": {virtual(`
  - fault: {delay: {fixedDelay: 0.7s, percentage: {value: 100}}}
    route: [{destination: {host: app, subset: v1}}]
`), []asked{{app("/"), []func(outcome) error{code(200), slower(700)}}}},
		"timeout": {virtual(`
  - timeout: 0.3s
    route: [{destination: {host: app, subset: v1}}]
`), []asked{{app("/delay/3"), []func(outcome) error{code(504), says("upstream request timeout"), quicker(2500)}}, {app("/"), v1}}},
		"CORS": {virtual(`
  - corsPolicy:
      allowOrigins: [{exact: "https://good.example"}, {regex: "https://.*\\.ok\\.example"}]
      allowMethods: [GET, PUT]
      allowHeaders: [x-one]
      exposeHeaders: [x-two]
      allowCredentials: true
      maxAge: 24h
    route: [{destination: {host: app, subset: v1}}]
`), []asked{
			{method(app("/", "origin", "https://good.example", "access-control-request-method", "PUT"), "OPTIONS"), []func(outcome) error{
				code(200), header("access-control-allow-origin", "https://good.example"), header("access-control-allow-methods", "GET,PUT"),
				header("access-control-allow-headers", "x-one"), header("access-control-max-age", "86400"), header("access-control-allow-credentials", "true"),
			}},
			{app("/", "origin", "https://a.ok.example"), []func(outcome) error{code(200), header("access-control-allow-origin", "https://a.ok.example"), header("access-control-expose-headers", "x-two")}},
			{app("/", "origin", "https://evil.example"), []func(outcome) error{code(200), header("access-control-allow-origin", "")}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m.route(t, tc.config)
			for _, a := range tc.asked {
				m.client.want(t, a.order, a.want...)
			}
		})
	}
	t.Run("source", func(t *testing.T) {
		m.route(t, toV2(`{sourceLabels: {role: tester}, sourceNamespace: mesh}`))
		m.client.only(t, "v2", app("/"))
		m.other.only(t, "v1", get("http://app.mesh/"))
	})
	t.Run("weights", func(t *testing.T) { meshWeights(t, m) })
}

func path(p string) func(outcome) error {
	return that("the server to see path "+p, func(o outcome) bool { return o.echo().Path == p })
}

func slower(ms float64) func(outcome) error {
	return that(fmt.Sprintf("an answer after %.0fms", ms), func(o outcome) bool { return o.TookMS >= ms })
}

func quicker(ms float64) func(outcome) error {
	return that(fmt.Sprintf("an answer before %.0fms", ms), func(o outcome) bool { return o.TookMS < ms })
}

func meshWeights(t *testing.T, m *mesh) {
	m.route(t, virtual(`
  - match: [{uri: {prefix: /all}}]
    route: [{destination: {host: app, subset: v2}, weight: 100}]
  - route:
    - {destination: {host: app, subset: v1}, weight: 80}
    - {destination: {host: app, subset: v2}, weight: 20}
`))
	m.client.want(t, get("http://app/all"), from("v2"))
	const n = 300
	got := m.client.count(t, n, get("http://app/"), outcome.version)
	// Four standard deviations of a binomial with p = 0.2.
	if want, off := 0.2*n, 4*math.Sqrt(n*0.2*0.8); math.Abs(float64(got["v2"])-want) > off || got["v1"]+got["v2"] != n {
		t.Errorf("80:20 gave %v of %d", got, n)
	}
}

// meshTraffic is what travels over routes besides plain requests: upgrades, gRPC, mirrors, raw TCP and TLS.
func meshTraffic(t *testing.T, m *mesh) {
	t.Run("websocket", func(t *testing.T) {
		// A text frame "hello", masked with zeros, goes out; it comes back without mask.
		send := "GET /websocket/echo HTTP/1.1\r\nHost: httpbin.httpbin\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
		frame := "\x81\x85\x00\x00\x00\x00hello"
		eventually(t, settle, func() error {
			got := m.client.raw(t, rawOrder{Address: "httpbin.httpbin:8000", Send: []byte(send), Then: []byte(frame), WaitMS: 700})
			text := string(got.Received)
			if !strings.HasPrefix(text, "HTTP/1.1 101 ") || !strings.HasSuffix(text, "\x81\x05hello") {
				return fmt.Errorf("want 101 and the frame echoed; got %q %s", text, got.Err)
			}
			return nil
		})
	})
	grpc := func(headers ...string) order {
		o := get("http://app:81/echo.Echo/Say", append([]string{"content-type", "application/grpc", "te", "trailers"}, headers...)...)
		o.Method, o.HTTP2, o.Body = http.MethodPost, true, []byte("\x00\x00\x00\x00\x02hi")
		return o
	}
	t.Run("gRPC with trailers", func(t *testing.T) {
		m.client.want(t, grpc(), code(200), trailer("Grpc-Status", "0"), trailer("Grpc-Message", "echo"),
			that("HTTP/2", func(o outcome) bool { return o.Proto == "HTTP/2.0" }), says("\x00\x00\x00\x00\x02hi"))
		m.client.want(t, grpc("x-grpc-status", "5"), code(200), trailer("Grpc-Status", "5"))
	})
	t.Run("gRPC fault and timeout", func(t *testing.T) {
		m.apply(t, virtual(`
  - match: [{uri: {prefix: /echo.Echo/}}]
    fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}
    route: [{destination: {host: app, port: {number: 81}}}]
  - route: [{destination: {host: app, port: {number: 80}}}]
`))
		m.client.want(t, grpc(), code(200), header("Grpc-Status", "14"))
	})
	t.Run("HTTP/2 stays HTTP/2", func(t *testing.T) {
		o := get("http://app:81/")
		o.HTTP2 = true
		m.client.want(t, o, code(200), that("HTTP/2 to the server", func(o outcome) bool { return strings.Contains(string(o.Body), `"proto": "HTTP/2.0"`) }))
	})
	t.Run("mirror", func(t *testing.T) { meshMirror(t, m) })
	t.Run("TCP", func(t *testing.T) {
		m.apply(t, subsets)
		say := func() string {
			return string(m.client.raw(t, rawOrder{Address: "app.mesh:9000", Send: []byte("over and out"), Want: 12}).Received)
		}
		eventually(t, settle, func() error {
			if got := say(); got != "over and out" {
				return fmt.Errorf("TCP echo gave %q", got)
			}
			return nil
		})
		m.apply(t, `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app-tcp}
spec:
  hosts: [app.mesh.svc.cluster.local]
  tcp:
  - match: [{port: 9000}]
    route: [{destination: {host: stub.mesh-out.svc.cluster.local, port: {number: 80}}}]
`)
		eventually(t, settle, func() error {
			got := m.client.raw(t, rawOrder{Address: "app.mesh:9000", Send: []byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), WaitMS: 1000})
			if !strings.Contains(string(got.Received), `"hostname": "stub-`) {
				return fmt.Errorf("want the route to the stub; got %q %s", got.Received, got.Err)
			}
			return nil
		})
	})
	t.Run("TLS by name", func(t *testing.T) {
		m.apply(t, `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: names}
spec:
  hosts: [one.names.example, two.names.example]
  addresses: [240.1.2.3]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: NONE
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: names}
spec:
  hosts: [one.names.example, two.names.example]
  tls:
  - match: [{port: 443, sniHosts: [one.names.example]}]
    route: [{destination: {host: stub.mesh-out.svc.cluster.local, port: {number: 443}}}]
  - match: [{port: 443, sniHosts: [two.names.example]}]
    route: [{destination: {host: app.mesh.svc.cluster.local, port: {number: 443}}}]
`)
		for name, want := range map[string]string{"one.names.example": `"hostname": "stub-`, "two.names.example": `"hostname": "app-`} {
			m.client.want(t, unroutable("https://"+name+"/", "240.1.2.3:443"), code(200), says(want), says(`"serverName": "`+name+`"`))
		}
	})
}

func trailer(name, value string) func(outcome) error {
	return func(o outcome) error {
		if got := o.Trailers.Get(name); got != value {
			return fmt.Errorf("want trailer %s %q, not %q", name, value, got)
		}
		return nil
	}
}

func meshMirror(t *testing.T, m *mesh) {
	s := m.scriptOf(t, "mesh", "app=mirror")
	s.set(t, rule{Contains: "never to be seen"})
	m.apply(t, subsets+"---"+virtual(`
  - match: [{uri: {prefix: /none}}]
    mirrors: [{destination: {host: mirror}, percentage: {value: 0}}]
    route: [{destination: {host: app, subset: v1}}]
  - mirrors: [{destination: {host: mirror}, percentage: {value: 100}}]
    route: [{destination: {host: app, subset: v1}}]
`))
	heard := func(path string) int {
		n := 0
		for _, r := range s.heard(t) {
			if r.Path == path {
				n++
			}
		}
		return n
	}
	o := get("http://app/mirrored")
	o.Method, o.Body = http.MethodPost, []byte("with a body")
	eventually(t, settle, func() error {
		if got := m.client.fetch(t, o); got.version() != "v1" {
			return fmt.Errorf("want v1's answer, got %s", got)
		}
		if heard("/mirrored") == 0 {
			return fmt.Errorf("the mirror heard %v", s.heard(t))
		}
		return nil
	})
	for _, r := range s.heard(t) {
		if r.Path == "/mirrored" && (r.Host != "app" || string(r.Body) != "with a body") {
			t.Errorf("the mirrored request is %+v", r)
		}
	}
	m.client.always(t, 10, get("http://app/none"), code(200), from("v1"))
	if n := heard("/none"); n != 0 {
		t.Errorf("%d requests mirrored of a route that mirrors none", n)
	}
}
