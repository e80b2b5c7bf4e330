package hcm

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

func policy(t testing.TB, js string) *retryPolicy {
	t.Helper()
	p := &routev3.RetryPolicy{}
	must(t, protojson.Unmarshal([]byte(js), p))
	out, err := compileRetry(p)
	must(t, err)
	return out
}

func TestRetryTerms(t *testing.T) {
	answer := func(status int, h ...string) *http.Response {
		r := &http.Response{StatusCode: status, Header: http.Header{}}
		for i := 0; i < len(h); i += 2 {
			r.Header.Set(h[i], h[i+1])
		}
		return r
	}
	for _, tc := range []struct {
		policy string
		resp   *http.Response
		want   bool
	}{
		{`{"retryOn":"5xx"}`, answer(500), true},
		{`{"retryOn":"5xx"}`, answer(404), false},
		{`{"retryOn":"gateway-error"}`, answer(503), true},
		{`{"retryOn":"gateway-error"}`, answer(500), false},
		{`{"retryOn":"retriable-4xx"}`, answer(409), true},
		{`{"retryOn":"retriable-status-codes","retriableStatusCodes":[418]}`, answer(418), true},
		{`{"retryOn":"5xx","retriableStatusCodes":[418]}`, answer(418), false},
		{`{"retryOn":"retriable-headers","retriableHeaders":[{"name":"x-again"}]}`, answer(200, "x-again", ""), true},
		{`{"retryOn":"5xx","retriableHeaders":[{"name":"x-again"}]}`, answer(200, "x-again", ""), false},
		{`{"retryOn":"envoy-ratelimited"}`, answer(429, "x-envoy-ratelimited", "true"), true},
		{`{"retryOn":"5xx"}`, answer(503, "x-envoy-ratelimited", "true"), false},
		{`{"retryOn":"envoy-ratelimited"}`, answer(429), false},
		{`{"retryOn":"unavailable"}`, answer(200, "grpc-status", "14"), true},
		{`{"retryOn":"cancelled"}`, answer(200, "grpc-status", "1"), true},
		{`{"retryOn":"deadline-exceeded"}`, answer(200, "grpc-status", "4"), true},
		{`{"retryOn":"internal"}`, answer(200, "grpc-status", "13"), true},
		{`{"retryOn":"resource-exhausted"}`, answer(200, "grpc-status", "8"), true},
		{`{"retryOn":"unavailable"}`, answer(200, "grpc-status", "0"), false},
		{`{"retryOn":"http3-post-connect-failure"}`, answer(503), false},
	} {
		if got := policy(t, tc.policy).response(tc.resp); got != tc.want {
			t.Errorf("%s on %d %v: %v", tc.policy, tc.resp.StatusCode, tc.resp.Header, got)
		}
	}
	for terms, want := range map[string]string{ // by stage: connecting, before the response, refused, timeout
		"5xx": "1111", "gateway-error": "1111", "reset": "1111", "reset-before-request": "1000", "connect-failure": "1000",
		"refused-stream": "0010", "retriable-4xx": "0000", "unavailable,cancelled": "0000", "connect-failure,refused-stream": "1010",
	} {
		p, got := policy(t, fmt.Sprintf(`{"retryOn":%q}`, terms)), ""
		for _, st := range []upstream.Stage{upstream.Connecting, upstream.BeforeResponse, upstream.Refused, upstream.Timeout} {
			got += map[bool]string{true: "1", false: "0"}[p.failure(&upstream.Error{Stage: st})]
		}
		if got != want {
			t.Errorf("%s: %s, want %s", terms, got, want)
		}
	}
}

func TestRetriesThatAClientAsksFor(t *testing.T) {
	f := &forwardAction{}
	s := stream(t, &Manager{}, "GET", "/", "x-envoy-retry-on", "5xx,nonsense", "x-envoy-retry-grpc-on", "unavailable",
		"x-envoy-max-retries", "3", "x-envoy-retriable-status-codes", "418, x,429", "x-envoy-retriable-header-names", "x-a,x-b")
	if p := f.retries(s); p != nil {
		t.Errorf("a client that is not trusted gets %+v", p)
	}
	s.internal = true
	p := f.retries(s)
	if p == nil || p.on != on5xx|onUnavailable || p.max != 3 || fmt.Sprint(p.codes) != "[418 429]" || len(p.headers) != 2 {
		t.Errorf("a trusted client gets %+v", p)
	}
	if len(s.req.Header) != 0 {
		t.Errorf("left for the upstream: %v", s.req.Header)
	}
	f.retry = policy(t, `{"retryOn":"5xx","retriableRequestHeaders":[{"name":":method"},{"name":"x-idempotent"}]}`)
	if p := f.retries(s); p != nil {
		t.Error("a request without the headers that retries need is retried")
	}
	s.req.Header.Set("X-Idempotent", "1")
	if p := f.retries(s); p == nil {
		t.Error("a request with the headers that retries need is not retried")
	}
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := policy(t, `{"retryOn":"5xx","retryBackOff":{"baseInterval":"0.1s","maxInterval":"0.3s"},"rateLimitedRetryBackOff":{
			"maxInterval":"60s","resetHeaders":[{"name":"retry-after","format":"SECONDS"},{"name":"x-reset","format":"UNIX_TIMESTAMP"}]}}`).backoff
		for n, most := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 3: 300 * time.Millisecond, 40: 300 * time.Millisecond} {
			for range 100 {
				if d := b.delay(n, nil); d < 0 || d >= most {
					t.Fatalf("retry %d after %v", n, d)
				}
			}
		}
		for _, h := range []http.Header{
			{"Retry-After": {"10"}}, {"X-Reset": {fmt.Sprint(time.Now().Unix() + 10)}}, {"Retry-After": {"soon"}, "X-Reset": {fmt.Sprint(time.Now().Unix() + 10)}},
		} {
			if d := b.delay(1, h); d < 10*time.Second || d > 15*time.Second {
				t.Errorf("%v: after %v", h, d)
			}
		}
		if d := b.delay(1, http.Header{"Retry-After": {"61"}}); d > time.Second {
			t.Errorf("a wait beyond the limit: %v", d)
		}
	})
}

func TestPrioritiesThatWereTried(t *testing.T) {
	p := policy(t, `{"retryOn":"5xx","retryPriority":{"name":"x","typedConfig":{
		"@type":"type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig","updateFrequency":2}}}`)
	s := stream(t, &Manager{}, "GET", "/")
	var tried []*cluster.Endpoint
	for i, want := range []uint64{0, 0, 1, 1, 3} {
		if got := s.choice(p, tried).AvoidPriorities; got != want {
			t.Errorf("attempt %d avoids %b, want %b", i+1, got, want)
		}
		tried = append(tried, &cluster.Endpoint{Priority: uint32(i / 2)})
	}
}

func TestLimits(t *testing.T) {
	type want struct {
		limits
		expected, grpc string
	}
	ms := time.Millisecond
	for _, tc := range []struct {
		route  string
		header []string
		want   want
	}{
		{`"timeout":"1s"`, nil, want{limits{request: 1000 * ms}, "1000", ""}},
		{`"timeout":"0s"`, nil, want{}},
		{`"cluster":"c"`, nil, want{limits{request: 15000 * ms}, "15000", ""}},
		{`"timeout":"1s","retryPolicy":{"perTryTimeout":"0.2s"}`, nil, want{limits{request: 1000 * ms, perTry: 200 * ms}, "200", ""}},
		{`"timeout":"1s","retryPolicy":{"perTryTimeout":"2s"}`, nil, want{limits{request: 1000 * ms}, "1000", ""}},
		{`"timeout":"0s","maxGrpcTimeout":"0s"`, []string{"content-type", "application/grpc", "grpc-timeout", "2S"}, want{limits{request: 2000 * ms}, "2000", "2000m"}},
		{`"timeout":"0s","maxGrpcTimeout":"0s"`, []string{"content-type", "application/grpc"}, want{}},
		{`"timeout":"1s","maxGrpcTimeout":"1s"`, []string{"content-type", "application/grpc", "grpc-timeout", "2S"}, want{limits{request: 1000 * ms}, "1000", "1000m"}},
		{`"timeout":"1s","maxGrpcTimeout":"1s"`, []string{"content-type", "application/grpc"}, want{limits{request: 1000 * ms}, "1000", "1000m"}},
		{`"timeout":"1s","maxGrpcTimeout":"1s"`, []string{"content-type", "application/grpc", "grpc-timeout", "99999999H"}, want{limits{request: 1000 * ms}, "1000", "1000m"}},
		{`"timeout":"1s","maxGrpcTimeout":"1s"`, []string{"content-type", "application/grpc", "grpc-timeout", "2562048H"}, want{limits{request: 1000 * ms}, "1000", "1000m"}},
		{`"timeout":"1s","maxGrpcTimeout":"0s"`, []string{"grpc-timeout", "2S"}, want{limits{request: 1000 * ms}, "1000", "2S"}},
		{`"timeout":"0s","maxGrpcTimeout":"0s","grpcTimeoutOffset":"0.5s"`, []string{"content-type", "application/grpc", "grpc-timeout", "2S"}, want{limits{request: 1500 * ms}, "1500", "1500m"}},
		{`"timeout":"1s"`, []string{"x-envoy-upstream-rq-timeout-ms", "300", "x-envoy-upstream-rq-per-try-timeout-ms", "100"}, want{limits{request: 300 * ms, perTry: 100 * ms}, "100", ""}},
		{`"timeout":"1s","maxStreamDuration":{"maxStreamDuration":"0s"}`, nil, want{}},
	} {
		a := &routev3.RouteAction{}
		must(t, protojson.Unmarshal([]byte("{"+tc.route+"}"), a))
		r, err := compileTimeouts(a)
		must(t, err)
		p, err := compileRetry(a.GetRetryPolicy())
		must(t, err)
		s := stream(t, &Manager{}, "GET", "/", tc.header...)
		l := r.limits(s, p)
		if got := (want{l, s.req.Header.Get("X-Envoy-Expected-Rq-Timeout-Ms"), s.req.Header.Get("Grpc-Timeout")}); got != tc.want {
			t.Errorf("%s %v: %+v, want %+v", tc.route, tc.header, got, tc.want)
		}
	}
	for text, want := range map[string]time.Duration{
		"1H": time.Hour, "1M": time.Minute, "3S": 3 * time.Second, "5m": 5 * ms, "1u": ms, "9n": ms, "": 0, "S": 0, "-1S": 0, "1x": 0, "123456789S": 0, "99999999H": 1<<63 - 1,
	} {
		if got := grpcTimeout(http.Header{"Grpc-Timeout": {text}}); got != want {
			t.Errorf("grpc-timeout %q: %v", text, got)
		}
	}
	if got := toGRPCTimeout(200_000 * time.Second); got != "200000S" {
		t.Errorf("a long timeout is written %s", got)
	}
}

func TestTimeoutsOfAttempts(t *testing.T) {
	var n atomic.Int32
	b := newBackend(t, func(c net.Conn, br *bufio.Reader, req *http.Request) bool {
		switch {
		case n.Add(1) == 1 && req.URL.Path != "/idle":
			_, _ = br.Peek(1) // until the proxy gives up
			return false
		case req.URL.Path == "/idle":
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
			_, _ = br.Peek(1)
			return false
		}
		return reply200("second")(c, br, req)
	})
	f := newFixture(t, `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[
		{"match":{"path":"/again"},"route":{"cluster":"up","timeout":"0s","retryPolicy":{"retryOn":"5xx","perTryTimeout":"0.05s"}}},
		{"match":{"path":"/once"},"route":{"cluster":"up","timeout":"0s","retryPolicy":{"retryOn":"connect-failure","perTryTimeout":"0.05s"}}},
		{"match":{"path":"/all"},"route":{"cluster":"up","timeout":"0.05s"}},
		{"match":{"path":"/idle"},"route":{"cluster":"up","timeout":"0s","retryPolicy":{"retryOn":"5xx","perTryIdleTimeout":"0.05s"}}},
		{"match":{"path":"/stream"},"route":{"cluster":"up","maxStreamDuration":{"grpcTimeoutHeaderMax":"0s"}}}]}]}`,
		map[string][]string{"up": {b.addr}}, nil)
	get := func(path string, more string) (*http.Response, string) {
		n.Store(0)
		return f.exchange("GET " + path + " HTTP/1.1\r\nHost: h\r\n" + more + "\r\n")
	}
	if resp, body := get("/again", ""); resp.StatusCode != http.StatusOK || body != "second" {
		t.Errorf("a retry after the first attempt's time: %d %q", resp.StatusCode, body)
	}
	for path, details := range map[string]string{"/once": "upstream_per_try_timeout", "/all": "response_timeout"} {
		if resp, body := get(path, ""); resp.StatusCode != http.StatusGatewayTimeout || body != "upstream request timeout" || f.last().ResponseCodeDetails != details {
			t.Errorf("%s: %d %q %s", path, resp.StatusCode, body, f.last().ResponseCodeDetails)
		}
	}
	c := f.connect()
	_, err := io.WriteString(c, "GET /idle HTTP/1.1\r\nHost: h\r\n\r\n")
	must(t, err)
	if b, _ := io.ReadAll(c); !strings.HasSuffix(string(b), "\r\n\r\nab") || f.last().ResponseCodeDetails != "upstream_per_try_idle_timeout" {
		t.Errorf("a response that stalls: %q %s", b, f.last().ResponseCodeDetails)
	}
	resp, _ := get("/stream", "content-type: application/grpc\r\ngrpc-timeout: 50m\r\n")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Grpc-Status") != "4" || resp.Header.Get("Grpc-Message") != "downstream duration timeout" || f.last().Flags.String() != "DT" {
		t.Errorf("a call beyond its deadline: %d %v %s", resp.StatusCode, resp.Header, f.last().Flags)
	}
}

func TestRetriesGiveBackTheLastAnswer(t *testing.T) {
	var n atomic.Int32
	b := newBackend(t, func(c net.Conn, br *bufio.Reader, req *http.Request) bool {
		_, _ = io.Copy(io.Discard, req.Body)
		_, err := fmt.Fprintf(c, "HTTP/1.1 503 No\r\nContent-Length: 1\r\nX-Count: %s\r\n\r\n%d", req.Header.Get("X-Envoy-Attempt-Count"), n.Add(1))
		return err == nil
	})
	f := newFixture(t, `{"virtualHosts":[{"name":"v","domains":["*"],"includeRequestAttemptCount":true,"routes":[{"match":{"prefix":"/"},
		"route":{"cluster":"up","timeout":"0s","retryPolicy":{"retryOn":"5xx","numRetries":2,"retryBackOff":{"baseInterval":"0.001s"}}}}]}]}`,
		map[string][]string{"up": {b.addr}}, nil)
	resp, body := f.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if resp.StatusCode != http.StatusServiceUnavailable || body != "3" || resp.Header.Get("X-Count") != "3" || f.last().Flags.String() != "URX" {
		t.Errorf("%d %q %v %s", resp.StatusCode, body, resp.Header, f.last().Flags)
	}
	big := strings.Repeat("x", maxReplay+1)
	n.Store(0)
	_, body = f.exchange(fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", len(big), big))
	if body != "1" {
		t.Errorf("a body that is not kept: attempt %s", body)
	}
}

func TestInternalClients(t *testing.T) {
	var seen http.Header
	b := newBackend(t, func(c net.Conn, br *bufio.Reader, req *http.Request) bool {
		seen = req.Header
		return reply200("")(c, br, req)
	})
	const raw = "GET / HTTP/1.1\r\nHost: a\r\nX-Envoy-Original-Path: /o\r\nX-Envoy-Upstream-Rq-Timeout-Ms: 1000\r\nX-Secret: s\r\n"
	run := func(extra string, change func(*hcmv3.HttpConnectionManager)) {
		f := newFixture(t, strings.Replace(simpleRoutes, `"name":"r"`, `"name":"r","internalOnlyHeaders":["x-secret"]`, 1), map[string][]string{"up": {b.addr}}, change)
		f.exchange(raw + extra + "\r\n")
	}
	ranges := func(remote bool) func(p *hcmv3.HttpConnectionManager) {
		return func(p *hcmv3.HttpConnectionManager) {
			must(t, protojson.Unmarshal([]byte(fmt.Sprintf(`{"useRemoteAddress":%v,"internalAddressConfig":{"cidrRanges":[{"addressPrefix":"127.0.0.0","prefixLen":8}]},
				"statPrefix":"x"}`, remote)), &hcmv3.HttpConnectionManager{}))
			q := &hcmv3.HttpConnectionManager{}
			must(t, protojson.Unmarshal([]byte(fmt.Sprintf(`{"useRemoteAddress":%v,"internalAddressConfig":{"cidrRanges":[{"addressPrefix":"127.0.0.0","prefixLen":8}]}}`, remote)), q))
			p.UseRemoteAddress, p.InternalAddressConfig = q.GetUseRemoteAddress(), q.GetInternalAddressConfig()
		}
	}
	run("", ranges(true))
	if seen.Get("X-Envoy-Internal") != "true" || seen.Get("X-Envoy-Expected-Rq-Timeout-Ms") != "1000" || seen.Get("X-Secret") == "" || seen.Get("X-Envoy-External-Address") != "" {
		t.Errorf("an internal client: %v", seen)
	}
	run("X-Forwarded-For: 127.0.0.1\r\n", ranges(true))
	if seen.Get("X-Envoy-Internal") != "" || seen.Get("X-Envoy-Expected-Rq-Timeout-Ms") != "" || seen.Get("X-Secret") != "" || seen.Get("X-Envoy-Original-Path") != "" {
		t.Errorf("a client beyond the edge: %v", seen)
	}
	run("X-Forwarded-For: 127.0.0.1\r\n", ranges(false))
	if seen.Get("X-Envoy-Internal") != "true" {
		t.Errorf("an internal client by x-forwarded-for: %v", seen)
	}
	run("X-Forwarded-For: 127.0.0.1,127.0.0.1\r\n", ranges(false))
	if seen.Get("X-Envoy-Internal") != "" || seen.Get("X-Envoy-Expected-Rq-Timeout-Ms") != "" || seen.Get("X-Envoy-Original-Path") != "/o" || seen.Get("X-Secret") != "" {
		t.Errorf("an external client behind the edge: %v", seen)
	}
}

func TestHosts(t *testing.T) {
	for _, tc := range []struct {
		m          *Manager
		host, want string
	}{
		{&Manager{stripAnyPort: true}, "h:81", "h"},
		{&Manager{stripMatching: true}, "h:80", "h"},
		{&Manager{stripMatching: true}, "h:81", "h:81"},
		{&Manager{stripDot: true}, "h.:81", "h:81"},
		{&Manager{stripDot: true, stripAnyPort: true}, "h.", "h"},
		{&Manager{stripAnyPort: true}, "[::1]:80", "[::1]"},
	} {
		s := stream(t, tc.m, "GET", "/")
		s.authority, s.conn.Local = tc.host, netip.MustParseAddrPort("10.0.0.1:80")
		if s.normalizeHost(); s.authority != tc.want {
			t.Errorf("%s: %s, want %s", tc.host, s.authority, tc.want)
		}
	}
}
