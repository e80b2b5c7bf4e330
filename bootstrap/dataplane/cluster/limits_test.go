package cluster

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

func fetch(c *Cluster, e *Endpoint, o ConnectOptions) error {
	req := &http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: "x", Path: "/"}, Host: "x", Header: http.Header{}, RequestURI: "/"}
	resp, err := c.RoundTrip(e, req.WithContext(context.Background()), 1, o)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

func fromJSON(t *testing.T, name, js string) *clusterv3.Cluster {
	t.Helper()
	p := edsCluster(name, clusterv3.Cluster_ROUND_ROBIN)
	extra := &clusterv3.Cluster{}
	must(t, protojson.Unmarshal([]byte(js), extra))
	p.CircuitBreakers, p.TypedExtensionProtocolOptions = extra.GetCircuitBreakers(), extra.GetTypedExtensionProtocolOptions()
	return p
}

func TestRetryLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t)
		c := serving(t, m, fromJSON(t, "plain", `{}`), hosts(0, 1, 0))
		for i := range 4 {
			if err := c.BeginRetry(Default); (err != nil) != (i == 3) {
				t.Errorf("retry %d: %v; three are allowed without configuration", i, err)
			}
		}
		c = serving(t, m, fromJSON(t, "budget", `{"circuitBreakers":{"thresholds":[{"maxRequests":1000,"retryBudget":{
			"budgetPercent":{"value":25},"minRetryConcurrency":2}}]}}`), hosts(0, 1, 0))
		allowed := func(p Priority) int {
			n := 0
			for c.BeginRetry(p) == nil {
				n++
			}
			for range n {
				c.EndRetry(p)
			}
			return n
		}
		if n := allowed(Default); n != 2 {
			t.Errorf("%d retries at rest, want the minimum of 2", n)
		}
		for range 40 {
			must(t, c.BeginRequest(Default))
		}
		if n := allowed(Default); n != 10 {
			t.Errorf("%d retries with 40 requests in flight, want 25%%", n)
		}
		c = serving(t, m, fromJSON(t, "window", `{"circuitBreakers":{"thresholds":[{"retryBudget":{"budgetInterval":"10s"}}]}}`), hosts(0, 1, 0))
		for range 50 {
			must(t, c.BeginRequest(Default))
			c.EndRequest(Default)
		}
		if n := allowed(Default); n != 10 {
			t.Errorf("%d retries with 50 requests in the last 10 s, want 20%%", n)
		}
		time.Sleep(11 * time.Second)
		if n := allowed(Default); n != 3 {
			t.Errorf("%d retries later, want the minimum of 3", n)
		}
		if n := allowed(High); n != 3 {
			t.Errorf("%d retries with high priority, want Envoy's default", n)
		}
		m.Close()
	})
}

func TestRequestLimitAndGauges(t *testing.T) {
	reg := stats.New()
	c := serving(t, newManager(t), fromJSON(t, "c", `{"circuitBreakers":{"thresholds":[{"maxRequests":2,"trackRemaining":true},
		{"priority":"HIGH","maxRequests":1}]}}`), hosts(0, 1, 0))
	must(t, c.BeginRequest(Default))
	must(t, c.BeginRequest(Default))
	if c.BeginRequest(Default) == nil {
		t.Error("the third of two")
	}
	must(t, c.BeginRequest(High))
	if c.BeginRequest(High) == nil {
		t.Error("the second of one with high priority")
	}
	c.EndRequest(High)
	c.Refresh(reg)
	sc := c.Stats.Scope
	sc.Name += ".circuit_breakers.default"
	if reg.Gauge(sc, "rq_open").Value() != 1 || reg.Gauge(sc, "remaining_rq").Value() != 0 || reg.Gauge(sc, "remaining_cx").Value() != 1024 {
		t.Errorf("rq_open %d, remaining_rq %d, remaining_cx %d", reg.Gauge(sc, "rq_open").Value(), reg.Gauge(sc, "remaining_rq").Value(),
			reg.Gauge(sc, "remaining_cx").Value())
	}
	c.EndRequest(Default)
	must(t, c.BeginRequest(Default))
}

// TestHTTP2Limits: streams per connection, connections, and requests that wait for one of them.
func TestHTTP2Limits(t *testing.T) {
	release, running := make(chan struct{}), make(chan struct{}, 10)
	var mu sync.Mutex
	conns := map[string]int{}
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		conns[r.RemoteAddr]++
		mu.Unlock()
		running <- struct{}{}
		<-release
	})
	srv := clearTextServer(h)
	defer srv.Close()
	m := newManager(t)
	c := serving(t, m, fromJSON(t, "c", `{"circuitBreakers":{"thresholds":[{"maxConnections":2,"maxPendingRequests":2}]},
		"typedExtensionProtocolOptions":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{
		"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
		"explicitHttpConfig":{"http2ProtocolOptions":{"maxConcurrentStreams":2}}}}}`),
		locality(0, lbEndpoint(strings.TrimPrefix(srv.URL, "http://"), 1, 0)))
	e := c.Endpoints()[0]
	results := make(chan error, 7)
	start := func() { go func() { results <- fetch(c, e, ConnectOptions{}) }() }
	for range 4 {
		start()
		<-running
	}
	mu.Lock()
	if len(conns) != 2 {
		t.Errorf("4 streams, 2 to a connection: %v", conns)
	}
	mu.Unlock()
	for range 3 {
		start()
	}
	if err := <-results; !errors.Is(err, ErrOverflow) {
		t.Errorf("two wait, the third got %v", err)
	}
	close(release)
	for range 6 {
		if err := <-results; err != nil {
			t.Errorf("a request within the limits: %v", err)
		}
	}
	if n := c.breakers[Default].pending.Load(); n != 0 || c.Stats.Pending.Value() != 0 {
		t.Errorf("%d still wait", n)
	}
}

// TestFirstConnection: a host without a connection may always open one, or its requests would wait for ever.
func TestFirstConnection(t *testing.T) {
	release, running := make(chan struct{}), make(chan struct{}, 4)
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { running <- struct{}{}; <-release })
	a, b := httptest.NewServer(h), httptest.NewServer(h)
	defer a.Close()
	defer b.Close()
	c := serving(t, newManager(t), fromJSON(t, "c", `{"circuitBreakers":{"thresholds":[{"maxConnections":1}]}}`),
		locality(0, lbEndpoint(strings.TrimPrefix(a.URL, "http://"), 1, 0), lbEndpoint(strings.TrimPrefix(b.URL, "http://"), 1, 0)))
	results := make(chan error, 2)
	for _, e := range c.Endpoints() {
		go func() { results <- fetch(c, e, ConnectOptions{}) }()
		<-running
	}
	if c.Stats.ConnOverflow.Value() != 1 {
		t.Errorf("overflows: %d", c.Stats.ConnOverflow.Value())
	}
	if _, err := c.Connect(t.Context(), c.Endpoints()[0], ConnectOptions{}); !errors.Is(err, ErrOverflow) {
		t.Errorf("TCP gets no exception: %v", err)
	}
	close(release)
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestConnectionAge(t *testing.T) {
	var mu sync.Mutex
	conns := map[string]bool{}
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		conns[r.RemoteAddr] = true
	})
	srv := clearTextServer(h)
	defer srv.Close()
	for version, codec := range map[string]string{"1": "httpProtocolOptions", "2": "http2ProtocolOptions"} {
		for age, want := range map[string]int{"0.000001s": 3, "60s": 1} {
			clear(conns)
			c := serving(t, newManager(t), fromJSON(t, "c", `{"typedExtensionProtocolOptions":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{
				"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
				"commonHttpProtocolOptions":{"maxConnectionDuration":"`+age+`"},"explicitHttpConfig":{"`+codec+`":{}}}}}`),
				locality(0, lbEndpoint(strings.TrimPrefix(srv.URL, "http://"), 1, 0)))
			for range 3 {
				must(t, fetch(c, c.Endpoints()[0], ConnectOptions{}))
			}
			mu.Lock()
			if len(conns) != want {
				t.Errorf("HTTP/%s, connections live %s: %d for 3 requests, want %d", version, age, len(conns), want)
			}
			mu.Unlock()
		}
	}
}

// clearTextServer speaks HTTP/1.1 and HTTP/2, both without TLS.
func clearTextServer(h http.Handler) *httptest.Server {
	srv := httptest.NewUnstartedServer(h)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	return srv
}
