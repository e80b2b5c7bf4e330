package hcm

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
)

// exchange2 sends one HTTP/2 request with the given fields. It gives the status, "" for a stream that was reset, and the
// body.
func (f *fixture) exchange2(fields ...string) (status, body string) {
	f.t.Helper()
	c := f.connect()
	_, err := io.WriteString(c, http2.ClientPreface)
	must(f.t, err)
	fr := http2.NewFramer(c, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	must(f.t, fr.WriteSettings())
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		must(f.t, enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	must(f.t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndStream: true, EndHeaders: true}))
	for {
		got, err := fr.ReadFrame()
		must(f.t, err)
		switch got := got.(type) {
		case *http2.MetaHeadersFrame:
			status = got.PseudoValue("status")
			if got.StreamEnded() {
				return status, body
			}
		case *http2.DataFrame:
			body += string(got.Data())
			if got.StreamEnded() {
				return status, body
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return "", body
		}
	}
}

// What HTTP/2 can carry and HTTP/1 cannot must not become a different request on the way.
func TestHTTP2ToHTTP1(t *testing.T) {
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {heads(t)}}, nil)
	for name, fields := range map[string][]string{
		"both":           {":method", "GET", ":scheme", "http", ":path", "/p?q", ":authority", "a.example", "host", "b.example"},
		"host alone":     {":method", "GET", ":scheme", "http", ":path", "/p?q", "host", "a.example"},
		"authority only": {":method", "GET", ":scheme", "http", ":path", "/p?q", ":authority", "a.example"},
	} {
		status, head := f.exchange2(fields...)
		if status != "200" || !strings.HasPrefix(head, "GET /p?q HTTP/1.1\nhost: a.example\n") || strings.Count(head, "host: ") != 1 {
			t.Errorf("%s: %s\n%s", name, status, head)
		}
	}
	for name, fields := range map[string][]string{
		"space in path":      {":method", "GET", ":scheme", "http", ":path", "/admin HTTP/1.1", ":authority", "a"},
		"space in method":    {":method", "GET /admin", ":scheme", "http", ":path", "/", ":authority", "a"},
		"colon in method":    {":method", "GE:T", ":scheme", "http", ":path", "/", ":authority", "a"},
		"slash in authority": {":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a/b"},
		"space in host":      {":method", "GET", ":scheme", "http", ":path", "/", "host", "a b"},
		"two hosts":          {":method", "GET", ":scheme", "http", ":path", "/", "host", "a", "host", "b"},
		"no host":            {":method", "GET", ":scheme", "http", ":path", "/"},
		"space in CONNECT":   {":method", "CONNECT", ":authority", "a b:443"},
		"tab in path":        {":method", "GET", ":scheme", "http", ":path", "/a\tb", ":authority", "a"},
	} {
		if status, body := f.exchange2(fields...); status == "200" {
			t.Errorf("%s: went on as\n%s", name, body)
		}
	}
}

// busyLog notes whether the manager was busy when a request was logged, which comes before its answer is out.
type busyLog struct {
	m    *Manager
	seen atomic.Bool
}

func (b *busyLog) Log(*accesslog.Entry) { b.seen.Store(b.m.Busy()) }

// A proxy that is told to end must not do so between the end of a request and the writing of its answer.
func TestBusyUntilTheAnswerIsOut(t *testing.T) {
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {heads(t)}}, nil)
	log := &busyLog{m: f.m}
	f.m.loggers = append(f.m.loggers, log)
	if resp, _ := f.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n"); resp.StatusCode != http.StatusOK || !log.seen.Load() {
		t.Errorf("HTTP/1: status %d, busy %v", resp.StatusCode, log.seen.Load())
	}
	log.seen.Store(false)
	if status, _ := f.exchange2(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a"); status != "200" || !log.seen.Load() {
		t.Errorf("HTTP/2: status %s, busy %v", status, log.seen.Load())
	}
	for end := time.Now().Add(5 * time.Second); f.m.Busy(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("busy without a request")
		}
	}
}
