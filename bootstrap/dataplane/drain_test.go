package dataplane

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"golang.org/x/net/http2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// forwarding is a connection manager that sends everything to cluster "up", or a TCP proxy that does.
func forwarding(tcp bool) string {
	if tcp {
		return `{"name":"tcp","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
			"statPrefix":"tcp","cluster":"up"}}`
	}
	return `{"name":"hcm","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"statPrefix":"x","routeConfig":{"name":"r","virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},
		"route":{"cluster":"up"}}]}]},"httpFilters":[{"name":"router","typedConfig":{
		"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}`
}

// held is an upstream that answers when it is told to.
type held struct {
	*httptest.Server
	running, release chan struct{}
	once             sync.Once
}

func newHeld(t *testing.T) *held {
	t.Helper()
	h := &held{running: make(chan struct{}, 100), release: make(chan struct{})}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/held" {
			h.running <- struct{}{}
			<-h.release
		}
		_, _ = io.WriteString(w, "done")
	}))
	t.Cleanup(func() { h.open(); h.Close() })
	return h
}

func (h *held) open() { h.once.Do(func() { close(h.release) }) }

// behind starts a proxy with an HTTP and a TCP listener before h.
func behind(t *testing.T, h *held) (p *Proxy, httpPort, tcpPort int) {
	t.Helper()
	p, c := startProxy(t)
	c.next(t, xds.ClusterType)
	up := &clusterv3.Cluster{}
	host, port, _ := net.SplitHostPort(strings.TrimPrefix(h.URL, "http://"))
	if err := protojson.Unmarshal(fmt.Appendf(nil, `{"name":"up","type":"STATIC","loadAssignment":{"clusterName":"up","endpoints":[{"lbEndpoints":[
		{"endpoint":{"address":{"socketAddress":{"address":%q,"portValue":%s}}}}]}]}}`, host, port), up); err != nil {
		t.Fatal(err)
	}
	if nack := c.push(t, xds.ClusterType, map[string]proto.Message{"up": up}); nack != "" {
		t.Fatal(nack)
	}
	c.next(t, xds.ListenerType)
	httpPort, tcpPort = freePort(t), freePort(t)
	if nack := c.push(t, xds.ListenerType, map[string]proto.Message{
		"http": listenerJSON(t, "http", httpPort, forwarding(false)), "tcp": listenerJSON(t, "tcp", tcpPort, forwarding(true)),
	}); nack != "" {
		t.Fatal(nack)
	}
	for end := time.Now().Add(5 * time.Second); p.State() != live && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return p, httpPort, tcpPort
}

func dialPort(t *testing.T, port int) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func ask(t *testing.T, c net.Conn, br *bufio.Reader, path string) *http.Response {
	t.Helper()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
	return answer(t, br)
}

func answer(t *testing.T, br *bufio.Reader) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "done" {
		t.Fatalf("%q %v", b, err)
	}
	return resp
}

// TestFinish: on a signal, whatever is under way ends well over HTTP/1, HTTP/2 and TCP, connections that wait to be
// accepted are served, and then nothing listens.
func TestFinish(t *testing.T) {
	h := newHeld(t)
	p, httpPort, tcpPort := behind(t, h)
	slow, raw := dialPort(t, httpPort), dialPort(t, tcpPort)
	for _, c := range []net.Conn{slow, raw} {
		if _, err := io.WriteString(c, "GET /held HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-h.running
	}
	tr := &http2.Transport{AllowHTTP: true}
	cc, err := tr.NewClientConn(dialPort(t, httpPort))
	if err != nil {
		t.Fatal(err)
	}
	over2 := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://x/held", http.NoBody)
		resp, err := cc.RoundTrip(req)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		over2 <- err
	}()
	<-h.running
	// Clients that connect and ask just when the signal comes.
	var late [20]net.Conn
	for i := range late {
		late[i] = dialPort(t, httpPort)
		if _, err := io.WriteString(late[i], "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		p.Finish(t.Context())
	}()
	for _, c := range late {
		answer(t, bufio.NewReader(c))
	}
	for end := time.Now().Add(5 * time.Second); ; {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", httpPort))
		if err != nil {
			break
		}
		_ = c.Close()
		if time.Now().After(end) {
			t.Fatal("the port still listens")
		}
	}
	for end := time.Now().Add(5 * time.Second); !cc.State().Closing; {
		if time.Now().After(end) {
			t.Fatal("no GOAWAY")
		}
		time.Sleep(time.Millisecond)
	}
	select {
	case <-finished:
		t.Fatal("finished while requests run")
	default:
	}
	h.open()
	if resp := answer(t, bufio.NewReader(slow)); !resp.Close {
		t.Error(`no "connection: close"`)
	}
	answer(t, bufio.NewReader(raw))
	_ = raw.Close()
	if err := <-over2; err != nil {
		t.Errorf("HTTP/2: %v", err)
	}
	<-finished
}

// TestGracefulDrain: pilot-agent's POST tells connections to go, and takes new ones for the drain time, or for ever when it
// says that it will end the process itself.
func TestGracefulDrain(t *testing.T) {
	listens := func(port int) bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}
	var ports []int
	for _, query := range []string{"graceful&skip_exit", "graceful"} {
		p, port, _ := behind(t, newHeld(t))
		ports = append(ports, port)
		kept := dialPort(t, port)
		br := bufio.NewReader(kept)
		if ask(t, kept, br, "/").Close {
			t.Error("closed before the drain")
		}
		post(t, p, "drain_listeners?"+query)
		if !ask(t, kept, br, "/").Close {
			t.Errorf("%s: a connection from before stays", query)
		}
		fresh := dialPort(t, port)
		if !ask(t, fresh, bufio.NewReader(fresh), "/").Close {
			t.Errorf("%s: a new connection is served and told to go", query)
		}
	}
	for end := time.Now().Add(10 * time.Second); listens(ports[1]); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the port listens after the drain time")
		}
	}
	if !listens(ports[0]) {
		t.Error("with skip_exit the port stays open")
	}
}

// TestHealthCheckFails: made to fail, the proxy is not ready and sends clients away, until that is taken back.
func TestHealthCheckFails(t *testing.T) {
	h := newHeld(t)
	p, port, _ := behind(t, h)
	closes := func() bool {
		c := dialPort(t, port)
		return ask(t, c, bufio.NewReader(c), "/").Close
	}
	ready := func() int {
		resp, err := http.Get(fmt.Sprintf("http://%s/ready", p.AdminAddress()))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for _, step := range []struct {
		path   string
		closes bool
		ready  int
	}{{"healthcheck/fail", true, 503}, {"healthcheck/ok", false, 200}, {"healthcheck/fail", true, 503}} {
		post(t, p, step.path)
		if c, r := closes(), ready(); c != step.closes || r != step.ready {
			t.Errorf("after %s: closes %v, ready %d", step.path, c, r)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func post(t *testing.T, p *Proxy, path string) {
	t.Helper()
	resp, err := http.Post(fmt.Sprintf("http://%s/%s", p.AdminAddress(), path), "", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, resp.Status)
	}
	http.DefaultClient.CloseIdleConnections()
}
