package cluster

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// learning is a cluster with one endpoint that is asked by ALPN what it speaks.
func learning(t *testing.T, addr string) (*Cluster, *Endpoint) {
	t.Helper()
	p := fromJSON(t, "auto", `{"typedExtensionProtocolOptions":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{
		"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","autoConfig":{}}}}`)
	p.TransportSocket = socketOf(t, "envoy.transport_sockets.tls", &tlsv3.UpstreamTlsContext{})
	c := serving(t, newManager(t), p, locality(0, lbEndpoint(addr, 1, 0)))
	e, err := c.Pick(Choice{})
	must(t, err)
	return c, e
}

func ask(ctx context.Context, c *Cluster, e *Endpoint) (string, error) {
	req := &http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: "x", Path: "/"}, Host: "x", Header: http.Header{}, RequestURI: "/"}
	resp, err := c.RoundTrip(e, req.WithContext(ctx), 1, ConnectOptions{})
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(resp.Body)
	return string(b), errors.Join(err, resp.Body.Close())
}

func TestProtocolIsLearned(t *testing.T) {
	for _, two := range []bool{true, false} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
		s.EnableHTTP2 = two
		s.StartTLS()
		defer s.Close()
		c, e := learning(t, s.Listener.Addr().String())
		want := map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"}[two]
		for range 2 {
			if got, err := ask(t.Context(), c, e); err != nil || got != want {
				t.Errorf("%q, %v; want %s", got, err, want)
			}
		}
		if n := c.Stats.Connects.Value(); n != 1 {
			t.Errorf("%d connections for two requests, one after the other", n)
		}
	}
}

// TestWaitForWhatAnotherLearns: who waits for somebody else's connection leaves when its own time is up.
func TestWaitForWhatAnotherLearns(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	c, e := learning(t, l.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := ask(ctx, c, e)
		first <- err
	}()
	silent, err := l.Accept() // and never a word: the first request waits for the handshake
	must(t, err)
	defer func() { _ = silent.Close() }()
	gone := errors.New("the client has gone")
	impatient, leave := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { leave(gone) })
	_, err = ask(impatient, c, e)
	if stage := (*upstream.Error)(nil); !errors.Is(err, gone) || !errors.As(err, &stage) || stage.Stage != upstream.Connecting {
		t.Errorf("got %v", err)
	}
	cancel()
	if err := <-first; err == nil {
		t.Error("an answer out of nowhere")
	}
}
