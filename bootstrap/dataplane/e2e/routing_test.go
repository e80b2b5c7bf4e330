package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

const here = "server.ns.svc.cluster.local"

// virtualService is one for the server with the given routes, indented by two.
func virtualService(routes string) string {
	return "\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: server, namespace: ns}\nspec:\n  hosts: [" + here + "]\n  http:\n" + routes
}

// answersBy makes a route that says its name in a response header.
func answersBy(name, match string) string {
	return fmt.Sprintf("  - match: [%s]\n    headers: {response: {set: {x-route: %s}}}\n    route: [{destination: {host: %s, port: {number: 8000}}}]\n", match, name, here)
}

// heardAt asks a pod's application which requests it got for a path.
func (p *pod) heardAt(path string) []echoed {
	p.w.t.Helper()
	o := p.send(order{Kind: "http", Method: "GET", URL: "http://127.0.0.1:8080/seen?path=" + path})
	var out []echoed
	must(p.w.t, json.Unmarshal([]byte(o.Body), &out))
	return out
}

func TestRouteMatching(t *testing.T) {
	w, client, server, _ := pair(t, "")
	w.apply(virtualService(strings.Join([]string{
		answersBy("exact", "{uri: {exact: /exact}}"),
		answersBy("nocase", "{uri: {prefix: /NoCase}, ignoreUriCase: true}"),
		answersBy("regex", `{uri: {regex: "/r/[0-9]{2}"}}`),
		answersBy("header", "{uri: {prefix: /h}, headers: {x-a: {exact: '1'}, x-b: {prefix: p}, x-c: {regex: 'a|b'}, x-d: {}}}"),
		answersBy("without", "{uri: {prefix: /h}, withoutHeaders: {x-a: {}, x-e: {exact: 'no'}}}"),
		answersBy("method", "{uri: {prefix: /m}, method: {regex: 'PUT|DELETE'}}"),
		answersBy("authority", "{uri: {prefix: /m}, authority: {prefix: server.ns.svc}}"),
		answersBy("scheme", "{uri: {prefix: /m}, scheme: {exact: https}}"),
		answersBy("query", "{uri: {prefix: /q}, queryParams: {a: {exact: '1'}, b: {regex: 'x+'}}}"),
		answersBy("labels", "{uri: {prefix: /l}, sourceLabels: {app: client}}"),
		answersBy("nolabels", "{uri: {prefix: /l}, sourceLabels: {app: other}}"),
		answersBy("port", "{uri: {prefix: /p}, port: 9999}"),
		answersBy("either", "{uri: {exact: /e1}}, {uri: {exact: /e2}}"),
		answersBy("rest", "{uri: {prefix: /}}"),
	}, "")))
	eventually(t, client, "the routes arrive", func() error {
		if o := client.send(request("/exact")); o.Header.Get("X-Route") != "exact" {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	for _, tc := range []struct {
		path, method, host string
		header             map[string]string
		want               string
	}{
		{path: "/exact?x", want: "exact"},
		{path: "/exact/", want: "rest"},
		{path: "/nocASE/x", want: "nocase"},
		{path: "/r/12", want: "regex"},
		{path: "/r/123", want: "rest"},
		{path: "/h", header: map[string]string{"x-a": "1", "x-b": "pq", "x-c": "b", "x-d": "any"}, want: "header"},
		{path: "/h", header: map[string]string{"x-a": "1", "x-b": "pq", "x-c": "c", "x-d": "any"}, want: "rest"},
		{path: "/h", want: "without"},
		{path: "/h", header: map[string]string{"x-e": "yes"}, want: "without"},
		{path: "/h", header: map[string]string{"x-e": "no"}, want: "rest"},
		{path: "/m", method: "PUT", want: "method"},
		{path: "/m", want: "rest"},
		{path: "/m", host: here + ":8000", want: "authority"},
		{path: "/m", header: map[string]string{"x-forwarded-proto": "https"}, want: "scheme"},
		{path: "/q?a=1&b=xx", want: "query"},
		{path: "/q?a=1&b=xy", want: "rest"},
		{path: "/l", want: "labels"},
		{path: "/p", want: "rest"},
		{path: "/e2", want: "either"},
	} {
		o := request(tc.path)
		if tc.method != "" {
			o.Method = tc.method
		}
		if tc.host != "" {
			o.Host = tc.host
		}
		for k, v := range tc.header {
			o.Header[k] = v
		}
		if got := client.send(o); got.Status != 200 || got.Header.Get("X-Route") != tc.want {
			t.Errorf("%+v went by %q (%d), want %q", tc, got.Header.Get("X-Route"), got.Status, tc.want)
		}
	}
	noNacks(t, client, server)
}

func TestRedirectsAndRewrites(t *testing.T) {
	w, client, server, _ := pair(t, "")
	to := fmt.Sprintf("    route: [{destination: {host: %s, port: {number: 8000}}}]\n", here)
	w.apply(virtualService(`
  - match: [{uri: {exact: /r1}}]
    redirect: {uri: /n, redirectCode: 308}
  - match: [{uri: {exact: /r2}}]
    redirect: {authority: o.example, port: 8443, scheme: https}
  - match: [{uri: {exact: /r3}}]
    redirect: {derivePort: FROM_REQUEST_PORT, scheme: https}
  - match: [{uri: {exact: /r4}}]
    redirect: {scheme: https, redirectCode: 302}
  - match: [{uri: {prefix: /w1/}}]
    rewrite: {uri: /}
` + to + `
  - match: [{uri: {regex: "/w2/.*"}}]
    rewrite: {uri: /whole}
` + to + `
  - match: [{uri: {prefix: /w3}}]
    rewrite: {uriRegexRewrite: {match: "^/w3/([^/]+)/(.*)", rewrite: "/\\2/of/\\1"}}
` + to + `
  - match: [{uri: {prefix: /w4}}]
    rewrite: {authority: rewritten.example}
    headers: {request: {set: {x-was: "%REQ(:path)%", x-none: "%REQ(nothing)%"}, add: {x-more: "2"}}, response: {set: {x-code: "%RESPONSE_CODE%"}, remove: [content-type]}}
` + to + `
  - match: [{uri: {prefix: /w5}}]
    route:
    - {destination: {host: ` + here + `, port: {number: 8000}}, weight: 100, headers: {request: {set: {Host: weighted.example, x-arm: a}}, response: {add: {x-arm: a}}}}
    - {destination: {host: ` + here + `, port: {number: 8000}}, weight: 0, headers: {request: {set: {x-arm: b}}}}
  - directResponse: {status: 503, body: {bytes: aGVyZQ==}}
    headers: {response: {set: {x-direct: "yes"}}}
`))
	eventually(t, client, "the routes arrive", answers(client, request("/else"), 503, "here"))
	for path, want := range map[string]string{
		"/r1?q": "308 http://server.ns:8000/n?q", "/r2?q": "301 https://o.example:8443/r2?q",
		"/r3": "301 https://server.ns:8000/r3", "/r4": "302 https://server.ns:8000/r4",
	} {
		if o := client.send(request(path)); fmt.Sprint(o.Status, " ", o.Header.Get("Location")) != want {
			t.Errorf("%s: %d %s, want %s", path, o.Status, o.Header.Get("Location"), want)
		}
	}
	for path, want := range map[string]string{"/w1/a?b": "/a?b", "/w2/x/y?z": "/whole?z", "/w3/a/b?c": "/b/of/a?c"} {
		if e := client.send(request(path)).echo(t); e.Path != want || e.Headers.Get("X-Envoy-Original-Path") != path {
			t.Errorf("%s became %s, originally %q", path, e.Path, e.Headers.Get("X-Envoy-Original-Path"))
		}
	}
	o := request("/w4")
	o.Header = map[string]string{"x-more": "1", "x-was": "theirs"}
	got := client.send(o)
	if e := got.echo(t); e.Authority != "rewritten.example" || e.Headers.Get("X-Was") != "/w4" || fmt.Sprint(e.Headers["X-More"]) != "[1 2]" ||
		e.Headers["X-None"] != nil || got.Header.Get("X-Code") != "200" || got.Header.Get("Content-Type") != "" {
		t.Errorf("server saw %+v, client %v", e, got.Header)
	}
	for range 10 {
		got := client.send(request("/w5"))
		if e := got.echo(t); e.Authority != "weighted.example" || e.Headers.Get("X-Arm") != "a" || got.Header.Get("X-Arm") != "a" {
			t.Errorf("an arm of weight 100: %+v %v", e, got.Header)
		}
	}
	if o := client.send(request("/else")); o.Header.Get("X-Direct") != "yes" {
		t.Errorf("direct response %+v", o)
	}
	noNacks(t, client, server)
}

func TestMirroring(t *testing.T) {
	w, client, server, plain := pair(t, "")
	w.apply(virtualService(fmt.Sprintf(`
  - match: [{uri: {prefix: /never}}]
    route: [{destination: {host: %[1]s, port: {number: 8000}}}]
    mirror: {host: plain.ns.svc.cluster.local, port: {number: 8000}}
    mirrorPercentage: {value: 0}
  - match: [{uri: {prefix: /half}}]
    route: [{destination: {host: %[1]s, port: {number: 8000}}}]
    mirror: {host: plain.ns.svc.cluster.local, port: {number: 8000}}
    mirrorPercentage: {value: 50}
  - match: [{uri: {prefix: /}}]
    route: [{destination: {host: %[1]s, port: {number: 8000}}}]
    mirrors:
    - destination: {host: plain.ns.svc.cluster.local, port: {number: 8000}}
    - destination: {host: %[1]s, port: {number: 8000}}
      percentage: {value: 100}
`, here)))
	eventually(t, client, "a copy arrives at a pod outside the mesh", func() error {
		client.send(request("/first"))
		if len(plain.heardAt("/first")) == 0 {
			return fmt.Errorf("no copy")
		}
		return nil
	})
	post := request("/copied")
	post.Method, post.Body = "POST", strings.Repeat("body", 10_000)
	if e := client.send(post).echo(t); e.Name != "server" || e.Authority != "server.ns:8000" || len(e.Body) != 40_000 {
		t.Errorf("the request itself: %s %s %d", e.Name, e.Authority, len(e.Body))
	}
	eventually(t, client, "copies of a body over plain text and mTLS", func() error {
		at, own := plain.heardAt("/copied"), server.heardAt("/copied")
		if len(at) != 1 || len(own) != 2 {
			return fmt.Errorf("%d and %d requests", len(at), len(own))
		}
		for _, e := range append(at, own...) {
			// istiod asks for the host without "-shadow" (DISABLE_SHADOW_HOST_SUFFIX).
			if e.Method != http.MethodPost || e.Body != post.Body || e.Authority != "server.ns:8000" {
				return fmt.Errorf("%s %s with %d bytes", e.Method, e.Authority, len(e.Body))
			}
		}
		return nil
	})
	for range 60 {
		client.send(request("/half"))
		client.send(request("/never"))
	}
	eventually(t, client, "half of the requests are copied", func() error {
		if n := len(plain.heardAt("/half")); n < 10 || n > 50 {
			return fmt.Errorf("%d of 60", n)
		}
		return nil
	})
	if n := len(plain.heardAt("/never")); n != 0 {
		t.Errorf("%d copies at 0 %%", n)
	}
	noNacks(t, client, server)
}

func TestRetryPolicies(t *testing.T) {
	w, client, server, _ := pair(t, "")
	route := func(path, retries string) string {
		return fmt.Sprintf("  - match: [{uri: {prefix: %s}}]\n    %s\n    route: [{destination: {host: %s, port: {number: 8000}}}]\n", path, retries, here)
	}
	w.apply(virtualService(strings.Join([]string{
		route("/fail/500/1/no", "retries: {attempts: 0}"),
		route("/fail/500/2/five", "retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}"),
		route("/fail/500/3/few", "retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}"),
		route("/fail/418/1/code", "retries: {attempts: 1, retryOn: '418,connect-failure'}"),
		route("/fail/429/1/header", "retries: {attempts: 1, retryOn: 'retriable-headers,envoy-ratelimited,http3-post-connect-failure,reset-before-request'}"),
		route("/fail/503/1/all", "retries: {attempts: 3, retryOn: 'gateway-error,connect-failure,refused-stream', retryRemoteLocalities: true, retryIgnorePreviousHosts: false}"),
		route("/fail/503/1/default", "name: default"),
		route("/slow", "retries: {attempts: 1, perTryTimeout: 0.2s, retryOn: 5xx}\n    timeout: 3s"),
	}, "") + answersBy("rest", "{uri: {prefix: /}}")))
	eventually(t, client, "the routes arrive", func() error {
		if o := client.send(request("/x")); o.Header.Get("X-Route") != "rest" {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	for path, want := range map[string]struct{ status, asked int }{
		"/fail/500/1/no": {500, 1}, "/fail/500/2/five": {200, 3}, "/fail/500/3/few": {500, 3}, "/fail/418/1/code": {200, 2},
		"/fail/429/1/header": {429, 1}, "/fail/503/1/all": {200, 2}, "/fail/503/1/default": {503, 1},
	} {
		o := client.send(request(path))
		if n := len(server.heardAt(path)); o.Status != want.status || n != want.asked {
			t.Errorf("%s: %d after %d requests, want %+v", path, o.Status, n, want)
		}
	}
	began := time.Now()
	o := client.send(request("/slow"))
	if n := len(server.heardAt("/slow")); o.Status != 504 || n != 2 || time.Since(began) > 2*time.Second {
		t.Errorf("two attempts of 0.2 s: %d after %d requests and %s", o.Status, n, time.Since(began))
	}
	if e := client.send(request("/x")).echo(t); e.Headers.Get("X-Envoy-Attempt-Count") != "1" {
		t.Errorf("attempt count %v", e.Headers)
	}
	noNacks(t, client, server)
}

func TestFaultsAndCORS(t *testing.T) {
	w, client, server, _ := pair(t, "")
	w.apply(virtualService(fmt.Sprintf(`
  - match: [{uri: {prefix: /grpc}}]
    fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}
    route: [{destination: {host: %[1]s, port: {number: 8000}}}]
  - match: [{uri: {prefix: /never}}]
    fault: {abort: {httpStatus: 400, percentage: {value: 0}}, delay: {fixedDelay: 10s, percentage: {value: 0}}}
    route: [{destination: {host: %[1]s, port: {number: 8000}}}]
  - match: [{uri: {prefix: /late}}]
    fault: {delay: {fixedDelay: 0.5s, percentage: {value: 100}}}
    route: [{destination: {host: %[1]s, port: {number: 8000}}}]
  - match: [{uri: {prefix: /some}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 50}}}
    route: [{destination: {host: %[1]s, port: {number: 8000}}}]
  - match: [{uri: {prefix: /cors}}]
    corsPolicy: {allowOrigins: [{regex: "https://.*\\.example"}, {prefix: "http://local"}], allowMethods: [GET, PUT], allowHeaders: [x-a, x-b], exposeHeaders: [x-c], maxAge: 24h, allowCredentials: true, unmatchedPreflights: IGNORE}
    route: [{destination: {host: %[1]s, port: {number: 8000}}}]
  - match: [{uri: {prefix: /any}}]
    corsPolicy: {allowOrigins: [{exact: "*"}]}
    route: [{destination: {host: %[1]s, port: {number: 8000}}}]
`, here)))
	grpc := request("/grpc")
	grpc.Method, grpc.Header["Content-Type"] = "POST", "application/grpc"
	eventually(t, client, "the routes arrive", func() error {
		if o := client.send(grpc); o.Status != 200 || o.Header.Get("Grpc-Status") != "14" || o.Header.Get("Grpc-Message") != "fault filter abort" {
			return fmt.Errorf("got %+v", o)
		}
		return nil
	})
	if o := client.send(request("/never")); o.Status != 200 {
		t.Errorf("faults of 0 %%: %+v", o)
	}
	began := time.Now()
	if o := client.send(request("/late")); o.Status != 200 || time.Since(began) < 500*time.Millisecond {
		t.Errorf("a delay: %d after %s", o.Status, time.Since(began))
	}
	n := 0
	for range 60 {
		if client.send(request("/some")).Status == 418 {
			n++
		}
	}
	if n < 10 || n > 50 {
		t.Errorf("%d of 60 aborted at 50 %%", n)
	}
	pre := func(path, origin string) outcome {
		o := request(path)
		o.Method, o.Header = "OPTIONS", map[string]string{"Origin": origin, "Access-Control-Request-Method": "PUT"}
		return client.send(o)
	}
	o := pre("/cors", "https://a.example")
	want := http.Header{
		"Access-Control-Allow-Origin": {"https://a.example"}, "Access-Control-Allow-Methods": {"GET,PUT"}, "Access-Control-Allow-Headers": {"x-a,x-b"},
		"Access-Control-Max-Age": {"86400"}, "Access-Control-Allow-Credentials": {"true"},
	}
	for k, v := range want {
		if o.Header.Get(k) != v[0] {
			t.Errorf("preflight: %s %q, want %q", k, o.Header.Get(k), v[0])
		}
	}
	if o := pre("/cors", "https://a.example.org"); o.Status != 200 || o.Body != "" || o.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("preflight of an origin that no rule names: %+v", o)
	}
	if o := pre("/any", "https://z"); o.Header.Get("Access-Control-Allow-Origin") != "https://z" {
		t.Errorf("preflight where all origins are allowed: %+v", o)
	}
	get := request("/cors")
	get.Header["Origin"] = "http://local:3000"
	if o := client.send(get); o.Status != 200 || o.Header.Get("Access-Control-Expose-Headers") != "x-c" || o.Header.Get("Access-Control-Allow-Origin") != "http://local:3000" {
		t.Errorf("a request of an allowed origin: %+v", o)
	}
	noNacks(t, client, server)
}
