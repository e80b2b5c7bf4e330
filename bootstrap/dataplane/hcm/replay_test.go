package hcm

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
)

const retriedRoutes = `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},
	"route":{"cluster":"up","timeout":"0s","retryPolicy":{"retryOn":"5xx","numRetries":3,"retryBackOff":{"baseInterval":"0.001s"}}}}]}]}`

// A client that waits for the answer before it sends the rest of its body must not wait for ever.
func TestRetryWhileTheClientIsSilent(t *testing.T) {
	var n atomic.Int32
	b := newBackend(t, func(c net.Conn, _ *bufio.Reader, req *http.Request) bool {
		var first [4]byte
		if _, err := io.ReadFull(req.Body, first[:]); err != nil {
			return false
		}
		if n.Add(1) < 3 {
			_, _ = io.WriteString(c, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
			return false
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n"+string(first[:]))
		_, _ = io.ReadFull(req.Body, first[:])
		_, _ = c.Write(first[:])
		return false
	})
	f := newFixture(t, retriedRoutes, map[string][]string{"up": {b.addr}}, nil)
	c := f.connect()
	_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n")
	must(t, err)
	br := bufio.NewReader(c)
	_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
	resp, err := http.ReadResponse(br, nil)
	must(t, err)
	if resp.StatusCode != http.StatusOK || n.Load() != 3 {
		t.Fatalf("status %d after %d attempts", resp.StatusCode, n.Load())
	}
	_, err = io.WriteString(c, "4\r\nefgh\r\n0\r\n\r\n")
	must(t, err)
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "abcdefgh" {
		t.Errorf("body %q %v", body, err)
	}
}

// stalled is a body whose reads are answered one by one.
type stalled struct{ feed chan string }

func (s *stalled) Read(p []byte) (int, error) {
	text, ok := <-s.feed
	if !ok {
		return 0, io.EOF
	}
	return copy(p, text), nil
}

func (s *stalled) Close() error { return nil }

// What an attempt that is given up has still read belongs to the next.
func TestReplayAfterALateRead(t *testing.T) {
	src := &stalled{make(chan string)}
	b := newReplayBody(src, true)
	old := b.reader()
	late := make(chan error, 1)
	buf := make([]byte, 16)
	go func() {
		_, err := old.Read(buf)
		late <- err
	}()
	for !b.busy() {
		time.Sleep(time.Millisecond)
	}
	if !b.retire() {
		t.Fatal("a body of which nothing is lost cannot be repeated")
	}
	next := b.reader()
	got := make(chan string, 1)
	go func() {
		all, _ := io.ReadAll(next)
		got <- string(all)
	}()
	src.feed <- "ab"
	if err := <-late; err == nil {
		t.Error("the attempt that is over got a part of the body")
	}
	src.feed <- "cd"
	close(src.feed)
	if all := <-got; all != "abcd" {
		t.Errorf("the next attempt got %q", all)
	}
}

// A body that has grown too large before the retry begins is not sent with its start missing, and the retry that does not
// come about is not counted as one that runs.
func TestReplayOfTooMuch(t *testing.T) {
	b := newReplayBody(io.NopCloser(strings.NewReader(strings.Repeat("x", maxReplay+10))), true)
	r := b.reader()
	buf := make([]byte, maxReplay)
	_, err := io.ReadFull(r, buf)
	must(t, err)
	if !b.canReplay() {
		t.Fatal("not kept")
	}
	if n, _ := r.Read(buf); n != 10 || b.retire() {
		t.Errorf("%d bytes more, and the body counts as whole", n)
	}
	if n, err := r.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("an attempt that goes on: %d %v", n, err)
	}
}

// However the sizes fall, an attempt sees the body from its start.
func TestRetriesOfLargeBodies(t *testing.T) {
	var bad atomic.Int32
	b := newBackend(t, func(c net.Conn, _ *bufio.Reader, req *http.Request) bool {
		first := make([]byte, 8)
		if _, err := io.ReadFull(req.Body, first); err != nil {
			return false
		}
		if string(first) != "the head" {
			bad.Add(1)
		}
		_, _ = io.CopyN(io.Discard, req.Body, maxReplay-40<<10)
		_, _ = io.WriteString(c, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
		_, _ = io.CopyN(io.Discard, req.Body, 200<<10) // what comes before the proxy closes the connection
		return false
	})
	f := newFixture(t, retriedRoutes, map[string][]string{"up": {b.addr}}, nil)
	for range 30 {
		c := f.connect()
		body := "the head" + strings.Repeat("x", maxReplay+256<<10)
		go func() {
			_, _ = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}()
		_, err := http.ReadResponse(bufio.NewReader(c), nil)
		must(t, err)
		_ = c.Close()
	}
	if bad.Load() > 0 {
		t.Errorf("%d attempts began in the middle of the body", bad.Load())
	}
	up := f.env.Clusters.Get("up")
	for deadline := time.Now().Add(5 * time.Second); f.m.stats.active.Value() > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	for range 3 { // the limit where a cluster sets none
		if err := up.BeginRetry(cluster.Default); err != nil {
			t.Fatalf("no request is running and a retry is not allowed: %v", err)
		}
		defer up.EndRetry(cluster.Default)
	}
}
