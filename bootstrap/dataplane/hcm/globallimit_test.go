package hcm

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// limiter is a rate limit service that lets two requests of each value pass.
type limiter struct {
	rlsv3.UnimplementedRateLimitServiceServer
	mu   sync.Mutex
	seen map[string]uint32
	last *rlsv3.RateLimitRequest
}

func (l *limiter) ShouldRateLimit(_ context.Context, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = r
	v := r.GetDescriptors()[0].GetEntries()[0].GetValue()
	if v == "fail" {
		return nil, errors.New("broken")
	}
	l.seen[v]++
	st := &rlsv3.RateLimitResponse_DescriptorStatus{
		CurrentLimit:       &rlsv3.RateLimitResponse_RateLimit{RequestsPerUnit: 2, Unit: rlsv3.RateLimitResponse_RateLimit_MINUTE, Name: "n"},
		DurationUntilReset: durationpb.New(30e9), LimitRemaining: 2 - min(l.seen[v], 2), Code: rlsv3.RateLimitResponse_OK,
	}
	out := &rlsv3.RateLimitResponse{
		OverallCode: rlsv3.RateLimitResponse_OK, Statuses: []*rlsv3.RateLimitResponse_DescriptorStatus{st},
		ResponseHeadersToAdd: []*corev3.HeaderValue{{Key: "x-rls", Value: "1"}},
	}
	if l.seen[v] > 2 {
		out.OverallCode, out.RawBody = rlsv3.RateLimitResponse_OVER_LIMIT, []byte("too many")
	}
	return out, nil
}

func TestGlobalRateLimitFilter(t *testing.T) {
	up := newBackend(t, func(c net.Conn, _ *bufio.Reader, _ *http.Request) bool {
		_, err := io.WriteString(c, emptyOK)
		return err == nil
	})
	l := &limiter{seen: map[string]uint32{}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	g := grpc.NewServer()
	rlsv3.RegisterRateLimitServiceServer(g, l)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(ln) }()
	t.Cleanup(func() { g.Stop(); <-done })
	const routes = `{"name":"r","virtualHosts":[{"name":"v","domains":["*"],"rateLimits":[{"actions":[{"requestHeaders":{"headerName":"x-user",
		"descriptorKey":"user"}}]}],"routes":[{"match":{"prefix":"/own"},"route":{"cluster":"up"},"typedPerFilterConfig":{"rl":{
		"@type":"type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute","domain":"other",
		"rateLimits":[{"actions":[{"genericKey":{"descriptorValue":"own"}}]}]}}},{"match":{"prefix":"/"},"route":{"cluster":"up"}}]}]}`
	filter := func(extra string) string {
		return `{"name":"rl","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit","domain":"d",
			"timeout":"5s","enableXRatelimitHeaders":"DRAFT_VERSION_03",` + extra + `"rateLimitService":{"transportApiVersion":"V3",
			"grpcService":{"envoyGrpc":{"clusterName":"rls"}}}}}`
	}
	f := newFixture(t, routes, map[string][]string{"up": {up.addr}}, before(t, filter("")))
	f.addCluster("rls", ln.Addr().String())
	get := func(path, user string) (*http.Response, string) {
		h := ""
		if user != "" {
			h = "X-User: " + user + "\r\n"
		}
		return f.exchange("GET " + path + " HTTP/1.1\r\nHost: a\r\n" + h + "\r\n")
	}
	if resp, _ := get("/", ""); resp.StatusCode != http.StatusOK || l.last != nil {
		t.Errorf("a request without descriptor: %d, service saw %v", resp.StatusCode, l.last)
	}
	resp, _ := get("/", "alice")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Rls") != "1" || resp.Header.Get("X-Ratelimit-Limit") != `2, 2;w=60;name="n"` ||
		resp.Header.Get("X-Ratelimit-Remaining") != "1" || resp.Header.Get("X-Ratelimit-Reset") != "30" || l.last.GetDomain() != "d" {
		t.Errorf("within the limit: %d %v, service saw %v", resp.StatusCode, resp.Header, l.last)
	}
	get("/", "alice")
	resp, body := get("/", "alice")
	if resp.StatusCode != http.StatusTooManyRequests || body != "too many" || resp.Header.Get("X-Envoy-Ratelimited") != "true" || resp.Header.Get("X-Rls") != "1" ||
		f.last().Flags.String() != "RL" || f.last().ResponseCodeDetails != "request_rate_limited" {
		t.Errorf("over the limit: %d %q %v %s", resp.StatusCode, body, resp.Header, f.last().Flags)
	}
	if resp, _ := get("/", "bob"); resp.StatusCode != http.StatusOK {
		t.Errorf("somebody else: %d", resp.StatusCode)
	}
	if resp, _ := get("/", "fail"); resp.StatusCode != http.StatusOK {
		t.Errorf("a service that fails: %d", resp.StatusCode)
	}
	if get("/own", "alice"); l.last.GetDomain() != "other" || l.last.GetDescriptors()[0].GetEntries()[0].GetValue() != "own" {
		t.Errorf("a route with limits of its own: %v", l.last)
	}
	f = newFixture(t, routes, map[string][]string{"up": {up.addr}}, before(t, filter(`"failureModeDeny":true,`)))
	f.addCluster("rls", ln.Addr().String())
	if resp, _ := get("/", "fail"); resp.StatusCode != http.StatusInternalServerError || f.last().Flags.String() != "RLSE" {
		t.Errorf("a service that fails, denied: %d %s", resp.StatusCode, f.last().Flags)
	}
}
