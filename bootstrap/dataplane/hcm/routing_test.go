package hcm

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// stream makes a request as filters see it, without a client.
func stream(t testing.TB, m *Manager, method, target string, header ...string) *Stream {
	t.Helper()
	r := httptest.NewRequest(method, target, http.NoBody)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	c, _ := net.Pipe()
	t.Cleanup(func() { _ = c.Close() })
	s := &Stream{m: m, req: r, authority: r.Host, path: requestPath(r), scheme: "http", conn: network.New(c), trace: &upstream.Trace{}}
	s.conn.Local = netip.MustParseAddrPort("10.0.0.1:80")
	s.ctx = &s.life
	return s
}

// table is a route configuration with one virtual host whose routes answer with the number of the route, from 1.
func table(t testing.TB, matches ...string) *RouteTable {
	t.Helper()
	var routes []string
	for i, m := range matches {
		routes = append(routes, fmt.Sprintf(`{"name":"%d","match":%s,"directResponse":{"status":200}}`, i+1, m))
	}
	rt, err := CompileRoutes(routesJSON(t, `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[`+strings.Join(routes, ",")+`]}]}`))
	must(t, err)
	return rt
}

func TestRouteMatchers(t *testing.T) {
	for _, tc := range []struct {
		match, method, target string
		header                []string
		want                  bool
	}{
		{match: `{"path":"/a"}`, target: "/a?x=1", want: true},
		{match: `{"path":"/a"}`, target: "/a/"},
		{match: `{"path":"/a"}`, target: "/A"},
		{match: `{"path":"/a","caseSensitive":false}`, target: "/A", want: true},
		{match: `{"prefix":"/a"}`, target: "/ab", want: true},
		{match: `{"prefix":"/a","caseSensitive":false}`, target: "/AB", want: true},
		{match: `{"pathSeparatedPrefix":"/a"}`, target: "/a", want: true},
		{match: `{"pathSeparatedPrefix":"/a"}`, target: "/a/b", want: true},
		{match: `{"pathSeparatedPrefix":"/a"}`, target: "/a?b", want: true},
		{match: `{"pathSeparatedPrefix":"/a"}`, target: "/ab"},
		{match: `{"pathSeparatedPrefix":"/a","caseSensitive":false}`, target: "/A/b", want: true},
		{match: `{"safeRegex":{"regex":"/a[0-9]+"}}`, target: "/a12?x", want: true},
		{match: `{"safeRegex":{"regex":"/a[0-9]+"}}`, target: "/a12/b"},
		{match: `{"prefix":"/","headers":[{"name":":method","stringMatch":{"exact":"PUT"}}]}`, method: "PUT", target: "/", want: true},
		{match: `{"prefix":"/","headers":[{"name":":method","stringMatch":{"exact":"PUT"}}]}`, target: "/"},
		{match: `{"prefix":"/","headers":[{"name":":authority","stringMatch":{"prefix":"ex"}}]}`, target: "/", want: true},
		{match: `{"prefix":"/","headers":[{"name":":scheme","stringMatch":{"exact":"http"}}]}`, target: "/", want: true},
		{match: `{"prefix":"/","headers":[{"name":"x","invertMatch":true,"treatMissingHeaderAsEmpty":true,"stringMatch":{"exact":"1"}}]}`, target: "/", want: true},
		{match: `{"prefix":"/","headers":[{"name":"x","invertMatch":true,"treatMissingHeaderAsEmpty":true,"stringMatch":{"exact":"1"}}]}`, target: "/", header: []string{"x", "1"}},
		{match: `{"prefix":"/","headers":[{"name":"x","invertMatch":true,"presentMatch":true}]}`, target: "/", header: []string{"x", ""}},
		{match: `{"prefix":"/","queryParameters":[{"name":"q","stringMatch":{"safeRegex":{"regex":"[ab]"}}}]}`, target: "/?p=1&q=b", want: true},
		{match: `{"prefix":"/","queryParameters":[{"name":"q","presentMatch":true}]}`, target: "/?q", want: true},
		{match: `{"prefix":"/","queryParameters":[{"name":"q","presentMatch":true}]}`, target: "/?p"},
		{match: `{"prefix":"/","grpc":{}}`, target: "/", header: []string{"content-type", "application/grpc+proto"}, want: true},
		{match: `{"prefix":"/","grpc":{}}`, target: "/", header: []string{"content-type", "application/grpc-web"}},
		{match: `{"connectMatcher":{}}`, target: "/"},
		{match: `{"connectMatcher":{}}`, method: "CONNECT", target: "example.com:443", want: true},
		{match: `{"prefix":"/"}`, method: "CONNECT", target: "example.com:443"},
		{match: `{"prefix":"/","runtimeFraction":{"defaultValue":{"numerator":0}}}`, target: "/"},
		{match: `{"prefix":"/","filterState":[{"key":"k","stringMatch":{"exact":"v"}}]}`, target: "/", want: true},
		{match: `{"prefix":"/","filterState":[{"key":"k","stringMatch":{"exact":"w"}}]}`, target: "/"},
		{match: `{"prefix":"/","filterState":[{"key":"ip","addressMatch":{"ranges":[{"addressPrefix":"10.1.0.0","prefixLen":16}]}}]}`, target: "/", want: true},
		{match: `{"prefix":"/","filterState":[{"key":"ip","addressMatch":{"invertMatch":true,"ranges":[{"addressPrefix":"10.1.0.0","prefixLen":16}]}}]}`, target: "/"},
		{match: `{"prefix":"/","filterState":[{"key":"none","addressMatch":{"invertMatch":true,"ranges":[{"addressPrefix":"10.1.0.0","prefixLen":16}]}}]}`, target: "/"},
	} {
		method := tc.method
		if method == "" {
			method = "GET"
		}
		s := stream(t, &Manager{table: staticRef(table(t, tc.match))}, method, tc.target, tc.header...)
		s.conn.SetFilterState("k", "v")
		s.conn.SetFilterState("ip", "10.1.2.3:80")
		if s.pick(); (s.route != nil) != tc.want {
			t.Errorf("%s: %s %s %v: matched %v", tc.match, method, tc.target, tc.header, s.route != nil)
		}
	}
}

func TestClaimsChooseTheRouteOnceTheyAreKnown(t *testing.T) {
	claim := func(name string, invert bool) string {
		return fmt.Sprintf(`{"prefix":"/","dynamicMetadata":[{"filter":"envoy.filters.http.jwt_authn","invert":%v,
			"path":[{"key":"payload"},{"key":%q}],"value":{"orMatch":{"valueMatchers":[{"stringMatch":{"exact":"admin"}},
			{"listMatch":{"oneOf":{"stringMatch":{"exact":"admin"}}}}]}}}]}`, invert, name)
	}
	m := &Manager{table: staticRef(table(t, claim("group", false), claim("role", true), `{"prefix":"/"}`))}
	for _, tc := range []struct {
		payload map[string]any
		want    string
	}{
		{map[string]any{"group": "admin"}, "1"},
		{map[string]any{"group": []any{"dev", "admin"}}, "1"},
		{map[string]any{"group": "dev"}, "2"},
		{map[string]any{"role": "admin"}, "3"},
	} {
		s := stream(t, m, "GET", "/")
		if s.pick(); s.route.name != "2" {
			t.Errorf("without claims: route %s", s.route.name)
		}
		s.setMetadata("envoy.filters.http.jwt_authn", "payload", tc.payload)
		if s.pick(); s.route.name != tc.want {
			t.Errorf("%v: route %s, want %s", tc.payload, s.route.name, tc.want)
		}
	}
}

func TestRoutesSwitchFiltersOnAndOff(t *testing.T) {
	const cors = `"@type":"type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy"`
	const set = `"@type":"type.googleapis.com/envoy.config.route.v3.FilterConfig"`
	rt, err := CompileRoutes(routesJSON(t, `{"typedPerFilterConfig":{"a":{`+set+`,"disabled":true}},"virtualHosts":[{"name":"v","domains":["*"],
		"typedPerFilterConfig":{"b":{`+set+`,"disabled":true},"d":{`+set+`,"config":{}}},"routes":[
		{"name":"plain","match":{"path":"/plain"},"directResponse":{"status":200}},
		{"name":"on","match":{"path":"/on"},"directResponse":{"status":200},"typedPerFilterConfig":{
			"a":{`+set+`,"config":{`+cors+`}},"b":{`+cors+`},"d":{`+set+`,"disabled":true}}}]}]}`))
	must(t, err)
	m := &Manager{table: staticRef(rt), filters: []filter{{name: "a"}, {name: "b"}, {name: "c"}, {name: "d"}}, disabled: 1 << 3}
	for path, want := range map[string]uint64{"/plain": 0b0011, "/on": 0b1000, "/none": 0b0001 | 0b1000} {
		s := stream(t, m, "GET", path)
		if s.pick(); s.skip != want {
			t.Errorf("%s: skips %04b, want %04b", path, s.skip, want)
		}
	}
	if _, err := CompileRoutes(routesJSON(t, `{"typedPerFilterConfig":{"a":{`+set+`}}}`)); err == nil {
		t.Error("a FilterConfig that says nothing was accepted")
	}
}

func TestRedirects(t *testing.T) {
	for _, tc := range []struct{ match, action, host, target, scheme, want string }{
		{action: `{}`, target: "/a?b", want: "http://h/a?b"},
		{action: `{"pathRedirect":""}`, target: "/a?b", want: "http://h/a?b"},
		{action: `{"hostRedirect":"o"}`, host: "h:81", target: "/a", want: "http://o/a"},
		{action: `{"portRedirect":8443}`, host: "h:81", target: "/a", want: "http://h:8443/a"},
		{action: `{"hostRedirect":"o","portRedirect":81}`, target: "/a", want: "http://o:81/a"},
		{action: `{"schemeRedirect":"https"}`, host: "h:80", target: "/a", want: "https://h/a"},
		{action: `{"schemeRedirect":"https"}`, host: "h:8080", target: "/a", want: "https://h:8080/a"},
		{action: `{"schemeRedirect":"http"}`, host: "[::1]:443", scheme: "https", target: "/", want: "http://[::1]/"},
		{action: `{"httpsRedirect":true}`, host: "h:80", target: "/a", want: "https://h/a"},
		{action: `{"schemeRedirect":"http"}`, host: "h:80", target: "/a", want: "http://h:80/a"},
		{action: `{"pathRedirect":"/n"}`, target: "/a?b", want: "http://h/n?b"},
		{action: `{"pathRedirect":"/n?c","stripQuery":true}`, target: "/a?b", want: "http://h/n?c"},
		{action: `{"pathRedirect":"/n","stripQuery":true}`, target: "/a?b", want: "http://h/n"},
		{match: `{"pathSeparatedPrefix":"/a"}`, action: `{"prefixRewrite":"/n"}`, target: "/a/b?c", want: "http://h/n/b?c"},
		{match: `{"path":"/a"}`, action: `{"prefixRewrite":"/n"}`, target: "/a?c", want: "http://h/n?c"},
		{match: `{"safeRegex":{"regex":"/a.*"}}`, action: `{"prefixRewrite":"/n"}`, target: "/abc?c", want: "http://h/n?c"},
		{action: `{"regexRewrite":{"pattern":{"regex":"^/(.)/(.)"},"substitution":"/\\2/\\1"}}`, target: "/a/b/c", want: "http://h/b/a/c"},
	} {
		match := tc.match
		if match == "" {
			match = `{"prefix":"/"}`
		}
		rt, err := CompileRoutes(routesJSON(t, `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":`+match+`,"redirect":`+tc.action+`}]}]}`))
		must(t, err)
		s := stream(t, &Manager{table: staticRef(rt)}, "GET", tc.target)
		if s.authority = "h"; tc.host != "" {
			s.authority = tc.host
		}
		if tc.scheme != "" {
			s.scheme = tc.scheme
		}
		s.pick()
		if got := s.route.redirect.location(s); got != tc.want {
			t.Errorf("%s of %s%s: %s, want %s", tc.action, s.authority, tc.target, got, tc.want)
		}
	}
}

func TestRewrites(t *testing.T) {
	for _, tc := range []struct{ match, action, target, path, host, forwarded string }{
		{action: `"prefixRewrite":"/n"`, target: "/a?b", path: "/na?b", host: "example.com"},
		{match: `{"prefix":"/a/"}`, action: `"prefixRewrite":"/"`, target: "/a/b?c", path: "/b?c", host: "example.com"},
		{match: `{"pathSeparatedPrefix":"/a"}`, action: `"prefixRewrite":"/n"`, target: "/a", path: "/n", host: "example.com"},
		{match: `{"path":"/a"}`, action: `"prefixRewrite":"/n"`, target: "/a?b", path: "/n?b", host: "example.com"},
		{match: `{"safeRegex":{"regex":"/[a-z]+"}}`, action: `"prefixRewrite":"/n"`, target: "/abc?d", path: "/n?d", host: "example.com"},
		{action: `"regexRewrite":{"pattern":{"regex":"^/a(/?)(.*)"},"substitution":"/\\2"}`, target: "/a/b?c", path: "/b?c", host: "example.com"},
		{action: `"regexRewrite":{"pattern":{"regex":"one"},"substitution":"two"}`, target: "/one/x/one?one", path: "/two/x/two?one", host: "example.com"},
		{action: `"hostRewriteLiteral":"o","appendXForwardedHost":true`, target: "/", path: "/", host: "o", forwarded: "example.com"},
		{action: `"hostRewriteHeader":"x-to"`, target: "/", path: "/", host: "to"},
		{action: `"hostRewriteHeader":"x-none"`, target: "/", path: "/", host: "example.com"},
		{action: `"hostRewritePathRegex":{"pattern":{"regex":"^/(.+)/.*"},"substitution":"\\1"}`, target: "/envoyproxy.io/x", path: "/envoyproxy.io/x", host: "envoyproxy.io"},
	} {
		match := tc.match
		if match == "" {
			match = `{"prefix":"/"}`
		}
		rt, err := CompileRoutes(routesJSON(t, `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":`+match+`,"route":{"cluster":"c",`+tc.action+`}}]}]}`))
		must(t, err)
		s := stream(t, &Manager{table: staticRef(rt)}, "GET", tc.target, "x-to", "to")
		s.table = rt
		s.route = rt.catchAll.find(s)
		s.rewrite(s.route.forward)
		h := s.req.Header
		if s.path != tc.path || s.authority != tc.host || h.Get("X-Forwarded-Host") != tc.forwarded {
			t.Errorf("%s of %s: %s %s, x-forwarded-host %q", tc.action, tc.target, s.authority, s.path, h.Get("X-Forwarded-Host"))
		}
		if (h.Get("X-Envoy-Original-Host") != "") != (tc.host != "example.com") || (h.Get("X-Envoy-Original-Path") != "") != strings.Contains(tc.action, "Rewrite\":") && !strings.Contains(tc.action, "host") {
			t.Errorf("%s of %s: %v", tc.action, tc.target, h)
		}
	}
}
