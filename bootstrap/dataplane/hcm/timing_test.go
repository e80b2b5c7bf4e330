package hcm

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
)

// TestInstants drives a request and its response piece by piece and looks for each piece's instant in the log entry.
func TestInstants(t *testing.T) {
	for name, framing := range map[string][3]string{
		"known length": {"Content-Length: 4\r\n", "12", "34"},
		"chunked":      {"Transfer-Encoding: chunked\r\n", "2\r\n12\r\n", "2\r\n34\r\n0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, next := make(chan string), make(chan struct{})
			b := newBackend(t, func(c net.Conn, _ *bufio.Reader, req *http.Request) bool {
				half := make([]byte, 2)
				_, _ = io.ReadFull(req.Body, half)
				got <- string(half)
				rest, _ := io.ReadAll(req.Body)
				got <- string(rest)
				<-next
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
				<-next
				_, _ = io.WriteString(c, "b")
				return true
			})
			f := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, nil)
			c := f.connect()
			br := bufio.NewReader(c)
			_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"+framing[0]+"\r\n"+framing[1])
			must(t, err)
			if half := <-got; half != "12" {
				t.Fatalf("the server got %q", half)
			}
			lastPart := time.Now()
			_, err = io.WriteString(c, framing[2])
			must(t, err)
			if rest := <-got; rest != "34" {
				t.Fatalf("the server got %q", rest)
			}
			answer := time.Now()
			next <- struct{}{}
			resp, err := http.ReadResponse(br, nil)
			must(t, err)
			_, err = io.ReadFull(resp.Body, make([]byte, 1))
			must(t, err)
			answered := time.Now()
			next <- struct{}{}
			_, err = io.Copy(io.Discard, br) // the connection closes after the request has been logged
			must(t, err)
			e := f.last()
			between := func(what string, at, from, to time.Time) {
				if at.Before(from) || at.After(to) {
					t.Errorf("%s was at %v, not from %v to %v", what, at, from, to)
				}
			}
			between("the request's last byte", e.RequestEnd, lastPart, answer)
			between("the last byte upstream", e.UpstreamRequestEnd, lastPart, time.Now())
			between("the response's first byte", e.UpstreamResponseStart, answer, answered)
			between("the end", e.End, answered, time.Now())
			if e.Upstream.Protocol != "HTTP/1.1" || e.Upstream.ConnectionID == 0 || e.Upstream.ConnectionID == e.Downstream.ConnectionID {
				t.Errorf("upstream %+v", e.Upstream)
			}
			if resp.Header.Get("X-Envoy-Upstream-Service-Time") == "" {
				t.Error("no service time")
			}
			format, err := accesslog.CompileText("%REQUEST_DURATION% %RESPONSE_TX_DURATION% %UPSTREAM_PROTOCOL%")
			must(t, err)
			if line := string(format.Format(e)); strings.Contains(line, "-") || !strings.HasSuffix(line, " HTTP/1.1") {
				t.Errorf("line %q", line)
			}
		})
	}
}

// TestInstantsThatNeverCame: what did not happen has no instant.
func TestInstantsThatNeverCame(t *testing.T) {
	answer := make(chan struct{})
	b := newBackend(t, func(c net.Conn, _ *bufio.Reader, req *http.Request) bool {
		switch req.URL.Path {
		case "/early": // answers before it has the request
			_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			<-answer
		case "/closed":
		}
		return false
	})
	routes := `{"name":"r","virtualHosts":[{"name":"v","domains":["*"],"routes":[
		{"match":{"prefix":"/here"},"directResponse":{"status":204}},
		{"match":{"prefix":"/"},"route":{"cluster":"up","timeout":"0s"}}]}]}`
	f := newFixture(t, routes, map[string][]string{"up": {b.addr}}, nil)
	send := func(path, rest string) *http.Response {
		c := f.connect()
		_, err := io.WriteString(c, "POST "+path+" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"+rest)
		must(t, err)
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, nil)
		must(t, err)
		must(t, c.(*net.TCPConn).CloseWrite()) // nothing more to wait for
		_, err = io.Copy(io.Discard, br)
		must(t, err)
		return resp
	}
	send("/here", "Content-Length: 0\r\n\r\n")
	if e := f.last(); !e.RequestEnd.Equal(e.Start) || !e.UpstreamRequestEnd.IsZero() || !e.UpstreamResponseStart.IsZero() || e.Upstream.ConnectionID != 0 {
		t.Errorf("a response made here: %+v", e)
	}
	resp := send("/early", "Content-Length: 4\r\n\r\n12")
	close(answer)
	if e := f.last(); !e.RequestEnd.IsZero() || !e.UpstreamRequestEnd.IsZero() || e.UpstreamResponseStart.IsZero() {
		t.Errorf("a response to half a request: ended %v, sent %v, answered %v", e.RequestEnd, e.UpstreamRequestEnd, e.UpstreamResponseStart)
	}
	if got := resp.Header.Get("X-Envoy-Upstream-Service-Time"); got != "" {
		t.Errorf("service time %q of half a request", got)
	}
	send("/closed", "Content-Length: 0\r\n\r\n")
	if e := f.last(); e.UpstreamRequestEnd.IsZero() || !e.UpstreamResponseStart.IsZero() || e.Upstream.Protocol != "HTTP/1.1" {
		t.Errorf("a server that hangs up: sent %v, answered %v, %+v", e.UpstreamRequestEnd, e.UpstreamResponseStart, e.Upstream)
	}
}
