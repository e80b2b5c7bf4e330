package hcm

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"
	"testing"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// heads is a backend that answers every request with its head as it came.
func heads(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			var head strings.Builder
			r := textproto.NewReader(bufio.NewReader(c))
			for {
				l, err := r.ReadLine()
				if err != nil || l == "" {
					break
				}
				head.WriteString(l + "\n")
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: "+itoa(head.Len())+"\r\n\r\n"+head.String())
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String()
}

// A client may take away its own headers by naming them in Connection, not what the proxy says of it.
func TestNominatedHeaders(t *testing.T) {
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {heads(t)}}, func(p *hcmv3.HttpConnectionManager) {
		p.AppendXForwardedPort = true
	})
	_, head := f.exchange("GET / HTTP/1.1\r\nHost: a\r\nX-Mine: 1\r\nX-Kept: 1\r\n" +
		"Connection: x-mine, x-request-id, x-forwarded-port, keep-alive\r\n\r\n")
	for _, name := range []string{"x-request-id: ", "x-forwarded-port: ", "x-kept: ", "x-forwarded-proto: "} {
		if !strings.Contains(head, "\n"+name) {
			t.Errorf("%q is missing in\n%s", name, head)
		}
	}
	if strings.Contains(head, "x-mine") || strings.Contains(head, "connection") {
		t.Errorf("a header for one hop came through:\n%s", head)
	}
	for _, raw := range []string{
		"Connection: x-forwarded-for", "Connection: close, X-Forwarded-Host", "Connection: x-forwarded-proto", "Connection: :path",
		"Connection: a,b,c,d,e\r\nConnection: f,g,h,i,j",
	} {
		if resp, _ := f.exchange("GET / HTTP/1.1\r\nHost: a\r\n" + raw + "\r\n\r\n"); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: status %d", raw, resp.StatusCode)
		}
	}
}

// Two must not read the client at once: what carries the body of an upgrade request, and the tunnel.
func TestUpgradeBeforeTheEndOfTheBody(t *testing.T) {
	b := newBackend(t, func(c net.Conn, _ *bufio.Reader, req *http.Request) bool {
		if req.URL.Path == "/read" {
			_, _ = io.Copy(io.Discard, req.Body)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(io.Discard, c)
		return false
	})
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, nil)
	for path, want := range map[string]int{"/": http.StatusBadGateway, "/read": http.StatusSwitchingProtocols} {
		c := f.connect()
		length := "3"
		if path == "/" {
			length = "100000"
		}
		_, err := io.WriteString(c, "POST "+path+" HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: "+length+"\r\n\r\nabc")
		must(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		must(t, err)
		if resp.StatusCode != want {
			t.Errorf("%s: status %d", path, resp.StatusCode)
		}
		_ = c.Close()
	}
}

// An address with a zone lies in no range, so rules about ranges would not see it.
func TestForwardedAddresses(t *testing.T) {
	def := netip.MustParseAddrPort("192.0.2.1:1")
	for list, want := range map[string]string{
		"10.0.0.1": "10.0.0.1", "9.9.9.9, ::ffff:10.0.0.1": "10.0.0.1", "2001:db8::1": "2001:db8::1", "fe80::1%eth0": "192.0.2.1",
		"2001:db8::1%\"x\"": "192.0.2.1", "10.0.0.1:80": "192.0.2.1", "": "192.0.2.1",
	} {
		if got := hop(list, 1, def); got.Addr().String() != want {
			t.Errorf("%q: %s", list, got)
		}
	}
}
