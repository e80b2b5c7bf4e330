package hcm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// serveH1 serves HTTP/1 requests one after the other.
func (m *Manager) serveH1(ctx context.Context, c *network.Conn, first *bufio.Reader) {
	lim := upstream.NewHeadLimit(c.Conn)
	rest := io.Reader(lim)
	if n := first.Buffered(); n > 0 {
		head, _ := first.Peek(n)
		rest = io.MultiReader(strings.NewReader(string(head)), lim)
	}
	br := bufio.NewReaderSize(rest, 16<<10)
	bw := bufio.NewWriterSize(c.Conn, 16<<10)
	for {
		_ = c.SetReadDeadline(deadline(m.idle))
		if _, err := br.Peek(1); err != nil {
			return
		}
		_ = c.SetReadDeadline(deadline(m.headersTimeout))
		lim.Begin(m.maxHeaderBytes)
		req, err := http.ReadRequest(br)
		lim.End()
		if err != nil {
			m.badRequest(c, bw, err)
			return
		}
		_ = c.SetReadDeadline(time.Time{})
		if err := m.acceptable(req); err != nil {
			m.badRequest(c, bw, err)
			return
		}
		if !m.oneH1(ctx, c, req, br, bw) {
			return
		}
	}
}

// oneH1 serves one request. It reports whether the connection takes another.
func (m *Manager) oneH1(ctx context.Context, c *network.Conn, req *http.Request, br *bufio.Reader, bw *bufio.Writer) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &h1Response{conn: c, br: br, bw: bw, req: req, header: http.Header{}}
	w.closeAfter = req.Close || wantsClose(req.Header) || isDraining(c)
	body := req.Body
	if strings.EqualFold(req.Header.Get("Expect"), "100-continue") && req.ProtoAtLeast(1, 1) {
		req.Body = &continueBody{ReadCloser: body, w: w}
	}
	if m.requestTimeout > 0 {
		_ = c.SetReadDeadline(deadline(m.requestTimeout))
		defer func() { _ = c.SetReadDeadline(time.Time{}) }()
	}
	var watch *watcher
	if body == http.NoBody {
		watch = watchClient(c, br, cancel)
		w.watch = watch
	}
	m.server.ServeHTTP(w, req.WithContext(ctx))
	if watch != nil {
		watch.stop()
	}
	if w.hijacked || w.broken {
		return false
	}
	if w.finish() != nil || w.closeAfter {
		if w.lingering {
			_ = discard(body, 64<<10)
		}
		return false
	}
	return body == http.NoBody || discard(body, 256<<10)
}

func isDraining(c *network.Conn) bool {
	select {
	case <-c.Draining:
		return true
	default:
		return false
	}
}

func wantsClose(h http.Header) bool {
	return httpguts.HeaderValuesContainsToken(h["Connection"], "close")
}

// acceptable applies the checks that Go's parser leaves to the server.
func (m *Manager) acceptable(r *http.Request) error {
	if !r.ProtoAtLeast(1, 1) && !(m.http10 && r.ProtoAtLeast(1, 0)) {
		return errUpgradeRequired
	}
	if !httpguts.ValidHostHeader(r.Host) {
		return errors.New("malformed host header")
	}
	for k, vs := range r.Header {
		if !httpguts.ValidHeaderFieldName(k) {
			return errors.New("malformed header name")
		}
		for _, v := range vs {
			if !httpguts.ValidHeaderFieldValue(v) {
				return errors.New("malformed header value")
			}
		}
	}
	return nil
}

var errUpgradeRequired = errors.New("HTTP/1.1 is required")

// badRequest answers bytes that are no acceptable request and logs them; the connection is then closed.
func (m *Manager) badRequest(c *network.Conn, bw *bufio.Writer, err error) {
	var ne net.Error
	status, details := http.StatusBadRequest, "http1.codec_error"
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return
	case errors.As(err, &ne) && ne.Timeout():
		status, details = http.StatusRequestTimeout, "request_header_timeout"
	case errors.Is(err, upstream.ErrHeadTooLarge):
		status, details = http.StatusRequestHeaderFieldsTooLarge, "http1.headers_too_large"
	case errors.Is(err, errUpgradeRequired):
		status, details = http.StatusUpgradeRequired, "low_version"
	}
	_ = c.SetWriteDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(bw, "HTTP/1.1 %d %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", status, http.StatusText(status))
	_ = bw.Flush()
	m.stats.total.Inc()
	m.stats.status[4].Inc()
	e := m.connEntry(c)
	e.ResponseCode, e.ResponseCodeDetails, e.Flags = status, details, accesslog.DownstreamProtocolError
	for _, l := range m.loggers {
		l.Log(e)
	}
}

// continueBody asks the client for the body when somebody wants to read it.
type continueBody struct {
	io.ReadCloser
	w    *h1Response
	once sync.Once
}

func (b *continueBody) Read(p []byte) (int, error) {
	b.once.Do(func() { b.w.interim() })
	return b.ReadCloser.Read(p)
}

// watcher notices a client that goes away while it waits for a response. Requests that are answered soon cost a timer.
type watcher struct {
	conn    *network.Conn
	timer   *time.Timer
	mu      sync.Mutex
	stopped bool
	done    chan struct{}
}

const watchAfter = 50 * time.Millisecond

func watchClient(c *network.Conn, br *bufio.Reader, gone context.CancelFunc) *watcher {
	w := &watcher{conn: c}
	w.timer = time.AfterFunc(watchAfter, func() {
		w.mu.Lock()
		if w.stopped {
			w.mu.Unlock()
			return
		}
		w.done = make(chan struct{})
		w.mu.Unlock()
		defer close(w.done)
		_, err := br.Peek(1)
		w.mu.Lock()
		defer w.mu.Unlock()
		if err != nil && !w.stopped {
			gone()
		}
	})
	return w
}

func (w *watcher) stop() {
	w.timer.Stop()
	w.mu.Lock()
	w.stopped = true
	done := w.done
	w.mu.Unlock()
	if done == nil {
		return
	}
	_ = w.conn.SetReadDeadline(time.Unix(1, 0))
	<-done
	_ = w.conn.SetReadDeadline(time.Time{})
}
