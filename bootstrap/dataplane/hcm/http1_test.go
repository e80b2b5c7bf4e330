package hcm

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestMalformedRequests(t *testing.T) {
	b := newBackend(t, reply200("ok"))
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, nil)
	for name, tc := range map[string]struct {
		raw  string
		want int
	}{
		"no host":                {"GET / HTTP/1.1\r\n\r\n", 400},
		"garbage":                {"\x01\x02\x03 / HTTP/1.1\r\n\r\n", 400},
		"HTTP/1.0":               {"GET / HTTP/1.0\r\nHost: a\r\n\r\n", 426},
		"bad header name":        {"GET / HTTP/1.1\r\nHost: a\r\nb ad: x\r\n\r\n", 400},
		"header without colon":   {"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", 400},
		"two lengths":            {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
		"negative length":        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400},
		"unknown coding":         {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
		"control in value":       {"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400},
		"head too large":         {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 80<<10) + "\r\n\r\n", 431},
		"malformed host":         {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
		"asterisk goes nowhere":  {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 404},
		"two equal lengths":      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", 400},
		"list of lengths":        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na", 400},
		"length with a sign":     {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", 400},
		"both framings":          {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"both, the other way":    {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400},
		"two codings":            {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
		"coding twice":           {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501},
		"identity coding":        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 501},
		"folded line":            {"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400},
		"space before colon":     {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\na", 400},
		"lone carriage return":   {"GET / HTTP/1.1\r\nHost: a\r\nX: a\rContent-Length: 1\r\n\r\n", 400},
		"two hosts":              {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
		"unknown version":        {"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400},
		"space in target":        {"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"control in target":      {"GET /a\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"no target":              {"GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		"too many headers":       {"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: a\r\n", 101) + "\r\n", 431},
		"connect is not offered": {"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 403},
	} {
		t.Run(name, func(t *testing.T) {
			f.t = t
			resp, _ := f.exchange(tc.raw)
			if resp.StatusCode != tc.want {
				t.Errorf("status %d, want %d", resp.StatusCode, tc.want)
			}
		})
	}
	if n := len(b.requests()); n != 0 {
		t.Errorf("%v reached the backend", b.requests())
	}
}

func TestKeepAlivePipeliningAndBodies(t *testing.T) {
	b := newBackend(t, reply200("body:"))
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, nil)
	c := f.connect()
	_, err := io.WriteString(c, "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"+
		"POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n"+
		"HEAD /3 HTTP/1.1\r\nHost: a\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	must(t, err)
	br := bufio.NewReader(c)
	for _, want := range []struct{ method, body string }{{"POST", "body:abc"}, {"POST", "body:xy"}} {
		if _, body := readResponse(t, br, want.method); body != want.body {
			t.Errorf("got %q, want %q", body, want.body)
		}
	}
	if resp, body := readResponse(t, br, "HEAD"); resp.ContentLength != 5 || body != "" {
		t.Errorf("HEAD gave length %d and %q", resp.ContentLength, body)
	}
	if resp, _ := readResponse(t, br, "GET"); !resp.Close {
		t.Error("the client asked for close")
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("after close: %v", err)
	}
	if e := f.last(); e.Path != "/4" || e.ResponseCode != 200 || e.BytesSent != 5 {
		t.Errorf("log %+v", e)
	}
}

func TestExpectContinue(t *testing.T) {
	b := newBackend(t, reply200(""))
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, nil)
	c := f.connect()
	_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	must(t, err)
	br := bufio.NewReader(c)
	line, err := br.ReadString('\n')
	must(t, err)
	if line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q", line)
	}
	_, _ = br.ReadString('\n')
	_, err = io.WriteString(c, "hi")
	must(t, err)
	if _, body := readResponse(t, br, "POST"); body != "hi" {
		t.Errorf("echo %q", body)
	}
}

func TestUpgrade(t *testing.T) {
	b := newBackend(t, func(c net.Conn, br *bufio.Reader, req *http.Request) bool {
		if req.Header.Get("Upgrade") != "websocket" || !strings.EqualFold(req.Header.Get("Connection"), "upgrade") {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n")
			return false
		}
		time.Sleep(2 * watchAfter) // the watch for the client's end is running by now
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, br)
		return false
	})
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, nil)
	c := f.connect()
	_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	must(t, err)
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	must(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d", resp.StatusCode)
	}
	for _, s := range []string{"ping\n", "pong\n"} {
		_, err = io.WriteString(c, s)
		must(t, err)
		if got, err := br.ReadString('\n'); err != nil || got != s {
			t.Errorf("echo %q %v", got, err)
		}
	}
}

// A client of HTTP/1.0 that wants to keep its connection has to hear that it may.
func TestKeepAliveOfHTTP10(t *testing.T) {
	b := newBackend(t, reply200("ok"))
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, func(p *hcmv3.HttpConnectionManager) {
		p.HttpProtocolOptions = &corev3.Http1ProtocolOptions{AcceptHttp_10: true}
	})
	c := f.connect()
	br := bufio.NewReader(c)
	for _, tc := range []struct{ send, connection string }{
		{"Connection: keep-alive\r\n", "keep-alive"}, {"Connection: Keep-Alive\r\n", "keep-alive"}, {"", "close"},
	} {
		_, err := io.WriteString(c, "GET / HTTP/1.0\r\nHost: a\r\n"+tc.send+"\r\n")
		must(t, err)
		var head strings.Builder
		for !strings.HasSuffix(head.String(), "\r\n\r\nok") {
			b, err := br.ReadByte()
			must(t, err)
			head.WriteByte(b)
		}
		if !strings.Contains(head.String(), "\r\nconnection: "+tc.connection+"\r\n") {
			t.Errorf("%q is answered with %q", tc.send, head.String())
		}
	}
}

func TestClientGoesAway(t *testing.T) {
	gone := make(chan struct{})
	b := newBackend(t, func(c net.Conn, br *bufio.Reader, _ *http.Request) bool {
		_, _ = br.ReadByte() // returns when the proxy gives the connection up
		close(gone)
		return false
	})
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, nil)
	c := f.connect()
	_, err := io.WriteString(c, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
	must(t, err)
	time.Sleep(2 * watchAfter)
	_ = c.Close()
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Fatal("the upstream request goes on after its client has left")
	}
	for end := time.Now().Add(5 * time.Second); f.last().Path == "" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if e := f.last(); e.Flags.String() != "DC" || e.ResponseCode != 0 {
		t.Errorf("log: flags %s code %d", e.Flags, e.ResponseCode)
	}
}

func TestUpstreamBreaksOff(t *testing.T) {
	b := newBackend(t, func(c net.Conn, _ *bufio.Reader, req *http.Request) bool {
		switch req.URL.Path {
		case "/before":
			return false
		case "/huge":
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("a", 200<<10)+"\r\n\r\n")
		case "/garbage":
			_, _ = io.WriteString(c, "\x00\x01\x02\r\n\r\n")
		default:
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
		}
		return false
	})
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, nil)
	for _, path := range []string{"/before", "/huge", "/garbage"} {
		resp, body := f.exchange("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
		if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "connection termination") {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
		if e := f.last(); e.Flags.String() != "UC" {
			t.Errorf("%s: flags %s", path, e.Flags)
		}
	}
	c := f.connect()
	_, err := io.WriteString(c, "GET /after HTTP/1.1\r\nHost: a\r\n\r\n")
	must(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	must(t, err)
	if got, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("a response cut short looks complete: %q", got)
	}
}

func TestTimeouts(t *testing.T) {
	b := newBackend(t, reply200("ok"))
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, func(p *hcmv3.HttpConnectionManager) {
		p.RequestHeadersTimeout = durationpb.New(50 * time.Millisecond)
		p.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(100 * time.Millisecond)}
	})
	resp, _ := f.exchange("GET / HTTP/1.1\r\nHost: a\r\n") // the head never ends
	if resp.StatusCode != http.StatusRequestTimeout {
		t.Errorf("slow head: %d", resp.StatusCode)
	}
	c := f.connect()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("idle connection: %v", err)
	}
}

func FuzzHTTP1(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "GET http://x/%zz?a=%00#f HTTP/1.1\r\nHost: b\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	routes := `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},"directResponse":{"status":200}}]}]}`
	fx := newFixture(f, routes, nil, func(p *hcmv3.HttpConnectionManager) {
		p.NormalizePath, p.MergeSlashes = wrapperspb.Bool(true), true
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		fx.t = t
		c := fx.connect()
		_, _ = c.Write(b)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
}
