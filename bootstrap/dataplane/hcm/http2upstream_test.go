package hcm

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// serveHTTP2 is an upstream that speaks HTTP/2 without TLS.
func serveHTTP2(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() { (&http2.Server{}).ServeConn(c, &http2.ServeConnOpts{Handler: h}) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// A client that waits for an answer before it sends more must hear of the end of the upstream's stream.
func TestHTTP2UpstreamWhileTheClientIsSilent(t *testing.T) {
	var n atomic.Int32
	addr := serveHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		var first [4]byte
		_, _ = io.ReadFull(r.Body, first[:])
		switch n.Add(1); {
		case r.URL.Path == "/reset":
			panic(http.ErrAbortHandler)
		case r.URL.Path == "/refuse" && n.Load() < 3:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			rest := make([]byte, 4)
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			_, _ = io.ReadFull(r.Body, rest)
			_, _ = w.Write(append(first[:], rest...))
		}
	})
	for path, want := range map[string]int{"/reset": http.StatusServiceUnavailable, "/refuse": http.StatusOK} {
		n.Store(0)
		routes := simpleRoutes
		if path == "/refuse" {
			routes = retriedRoutes
		}
		f := newFixture(t, strings.Replace(routes, `"cluster":"up"`, `"cluster":"two"`, 1), nil, nil)
		f.addCluster("two", addr)
		c := f.connect()
		_, err := io.WriteString(c, "POST "+path+" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n")
		must(t, err)
		_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if resp.StatusCode != want {
			t.Errorf("%s: status %d", path, resp.StatusCode)
		}
		if path == "/refuse" {
			_, err = io.WriteString(c, "4\r\nefgh\r\n0\r\n\r\n")
			must(t, err)
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "abcdefgh" {
				t.Errorf("body %q %v", body, err)
			}
		}
	}
}
