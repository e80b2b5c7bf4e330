package hcm

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

func TestVirtualHosts(t *testing.T) {
	host := func(name string, domains ...string) string {
		return fmt.Sprintf(`{"name":%q,"domains":["%s"],"routes":[{"match":{"prefix":"/"},"directResponse":{"status":200}}]}`,
			name, strings.Join(domains, `","`))
	}
	table, err := CompileRoutes(routesJSON(t, `{"name":"r","ignorePortInHostMatching":true,"virtualHosts":[`+strings.Join([]string{
		host("exact", "www.example.com"), host("long", "*.api.example.com"), host("short", "*.example.com"),
		host("prefix", "internal.*"), host("any", "*"),
	}, ",")+`]}`))
	must(t, err)
	for authority, want := range map[string]string{
		"www.example.com": "exact", "WWW.Example.COM:8080": "exact", "a.api.example.com": "long", "b.example.com": "short",
		"example.com": "any", "internal.org": "prefix", "[::1]:80": "any",
	} {
		if h := table.host(authority); h.name != want {
			t.Errorf("%s: %s, want %s", authority, h.name, want)
		}
	}
	if _, err := CompileRoutes(routesJSON(t, `{"virtualHosts":[`+host("a", "x")+","+host("b", "x")+`]}`)); err == nil {
		t.Error("a domain may stand once")
	}
}

func TestUnsupportedRouteFieldsAreNamed(t *testing.T) {
	for js, want := range map[string]string{
		`{"match":{"prefix":"/"},"route":{"cluster":"a","internalRedirectPolicy":{}}}`:                "RouteAction.internal_redirect_policy",
		`{"match":{"prefix":"/"},"route":{"cluster":"a","hedgePolicy":{"initialRequests":2}}}`:        "RouteAction.hedge_policy",
		`{"match":{"prefix":"/","tlsContext":{}},"route":{"cluster":"a"}}`:                            "RouteMatch.tls_context",
		`{"match":{"prefix":"/"},"route":{"cluster":"a","hashPolicy":[{"filterState":{"key":"x"}}]}}`: "HashPolicy.policy_specifier",
		`{"match":{"prefix":"/"},"route":{"cluster":"a","retryPolicy":{"retryOn":"sometimes"}}}`:      "RetryPolicy.retry_on",
	} {
		r := &routev3.Route{}
		must(t, protojson.Unmarshal([]byte(js), r))
		_, err := compileRoute(r, &virtualHost{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", js, err, want)
		}
	}
}

func TestPathNormalization(t *testing.T) {
	for _, tc := range []struct {
		in, want string
		merge    bool
		escaped  hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction
		reject   bool
	}{
		{in: "/a/../b?x=/../", want: "/b?x=/../"},
		{in: "/a/./b", want: "/a/b"},
		{in: "/../../x", want: "/x"},
		{in: "/a/..", want: "/"},
		{in: "/%41%2e%2E/b", want: "/A../b"},
		{in: "/a/%2e%2e/b", want: "/b"},
		{in: "/a%2fb", want: "/a%2fb"},
		{in: "/a//b", want: "/a//b"},
		{in: "/a//b", want: "/a/b", merge: true},
		{in: `/a\b`, want: "/a/b"},
		{in: "/a%2Fb", want: "/a/b", escaped: hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD},
		{in: "/a%2fb", reject: true, escaped: hcmv3.HttpConnectionManager_REJECT_REQUEST},
		{in: "/a#frag?x", reject: true},
		{in: "/a?x#frag", reject: true},
		{in: "/a/%%32e%%32e/b", want: "/a/%252e%252e/b"},
		{in: "/a/%%32%65%2%65/b", want: "/a/%252e%252e/b"},
		{in: "/a%%32fb", want: "/a%252fb", escaped: hcmv3.HttpConnectionManager_REJECT_REQUEST},
		{in: "/a%%35cb%", want: "/a%255cb%", escaped: hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD},
		{in: "/100%/%zz/%e4%4", want: "/100%/%zz/%e4%4"},
	} {
		s := &Stream{m: &Manager{normalize: true, mergeSlashes: tc.merge, escaped: tc.escaped}, path: tc.in}
		rep := s.normalizePath()
		if (rep != nil) != tc.reject || !tc.reject && s.path != tc.want {
			t.Errorf("%s: %q, reply %v; want %q", tc.in, s.path, rep, tc.want)
		}
	}
}

func TestRetries(t *testing.T) {
	var n atomic.Int32
	flaky := newBackend(t, func(c net.Conn, br *bufio.Reader, req *http.Request) bool {
		body, _ := io.ReadAll(req.Body)
		if n.Add(1) < 3 {
			_, _ = io.WriteString(c, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
			return true
		}
		return reply200("third:"+string(body))(c, br, &http.Request{Body: http.NoBody})
	})
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	deadAddr := dead.Addr().String()
	_ = dead.Close()
	good := newBackend(t, reply200("good"))
	route := func(prefix, cluster string) string {
		return fmt.Sprintf(`{"match":{"prefix":%q},"route":{"cluster":%q,"timeout":"0s","retryPolicy":{"numRetries":2,
			"retryOn":"connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes","retriableStatusCodes":[503],
			"retryHostPredicate":[{"name":"p","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}],
			"hostSelectionRetryMaxAttempts":"5"}}}`, prefix, cluster)
	}
	f := newFixture(t, `{"virtualHosts":[{"name":"v","domains":["*"],"includeRequestAttemptCount":true,"routes":[`+
		strings.Join([]string{route("/flaky", "flaky"), route("/half", "half"), route("/dead", "dead")}, ",")+`]}]}`,
		map[string][]string{"flaky": {flaky.addr}, "half": {deadAddr, good.addr}, "dead": {deadAddr}}, nil)
	resp, body := f.exchange("POST /flaky HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\ndata")
	if resp.StatusCode != http.StatusOK || body != "third:data" || f.last().Upstream.Attempts != 3 {
		t.Errorf("two 503s: %d %q after %d attempts", resp.StatusCode, body, f.last().Upstream.Attempts)
	}
	for range 6 {
		if resp, body := f.exchange("GET /half HTTP/1.1\r\nHost: a\r\n\r\n"); resp.StatusCode != http.StatusOK || body != "good" {
			t.Errorf("one dead host of two: %d %q", resp.StatusCode, body)
		}
	}
	resp, body = f.exchange("GET /dead HTTP/1.1\r\nHost: a\r\n\r\n")
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "connection refused") || f.last().Flags.String() != "UF,URX" {
		t.Errorf("dead cluster: %d %q flags %s", resp.StatusCode, body, f.last().Flags)
	}
}

func TestStaleConnectionIsReplaced(t *testing.T) {
	b := newBackend(t, func(c net.Conn, br *bufio.Reader, req *http.Request) bool {
		_ = reply200("ok")(c, br, req)
		return false // closes a connection that looked alive
	})
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, nil)
	for i := range 20 {
		if resp, body := f.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n"); resp.StatusCode != http.StatusOK {
			t.Fatalf("request %d: %d %q", i, resp.StatusCode, body)
		}
	}
}

func TestForwardingHeaders(t *testing.T) {
	var got http.Header
	b := newBackend(t, func(c net.Conn, br *bufio.Reader, req *http.Request) bool {
		got = req.Header
		return reply200("")(c, br, req)
	})
	const raw = "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nTE: trailers, gzip\r\n" +
		"X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Client-Cert: Hash=forged\r\nX-Envoy-Max-Retries: 9\r\nX-Request-Id: theirs\r\n\r\n"
	edge := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, func(p *hcmv3.HttpConnectionManager) {
		p.UseRemoteAddress = wrapperspb.Bool(true)
	})
	edge.exchange(raw)
	if got.Get("X-Forwarded-For") != "9.9.9.9,127.0.0.1" || got.Get("X-Envoy-Max-Retries") != "" || got.Get("X-Request-Id") == "theirs" ||
		got.Get("X-Forwarded-Client-Cert") != "" || got.Get("X-Hop") != "" || got.Get("Te") != "trailers" || got.Get("X-Forwarded-Proto") != "http" {
		t.Errorf("at the edge: %v", got)
	}
	if len(got.Get("X-Request-Id")) != 36 {
		t.Errorf("request id %q", got.Get("X-Request-Id"))
	}
	inner := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, nil)
	inner.exchange(raw)
	if got.Get("X-Forwarded-For") != "9.9.9.9" || got.Get("X-Request-Id") != "theirs" {
		t.Errorf("inside: %v", got)
	}
	if e := inner.last(); e.Downstream.RemoteAddress.Addr().String() != "9.9.9.9" {
		t.Errorf("client address %s", e.Downstream.RemoteAddress)
	}
}

func TestDrainClosesAfterTheNextResponse(t *testing.T) {
	b := newBackend(t, reply200("ok"))
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, nil)
	drain := make(chan struct{})
	srv, cli := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := network.New(srv)
		c.Draining = drain
		f.m.Serve(context.Background(), c)
		c.Finish()
	}()
	br := bufio.NewReader(cli)
	ask := func() *http.Response {
		t.Helper()
		go func() { _, _ = io.WriteString(cli, "GET / HTTP/1.1\r\nHost: a\r\n\r\n") }()
		resp, _ := readResponse(t, br, "GET")
		return resp
	}
	if ask().Close {
		t.Error("closed without need")
	}
	close(drain)
	if !ask().Close {
		t.Error("a draining connection must say so")
	}
	<-done
}
