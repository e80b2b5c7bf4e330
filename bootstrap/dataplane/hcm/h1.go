package hcm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/http1"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

// h1Server serves one client's HTTP/1 connection.
type h1Server struct {
	m     *Manager
	c     *network.Conn
	br    *bufio.Reader
	bw    *bufio.Writer // while a response is under way
	clock h1Clock
}

// serveH1 serves HTTP/1 requests one after the other. br reads from c and may have bytes already.
func (m *Manager) serveH1(ctx context.Context, c *network.Conn, br *bufio.Reader) {
	s := &h1Server{m: m, c: c, br: br}
	s.clock.start(s)
	defer s.clock.stop()
	defer context.AfterFunc(ctx, func() { s.clock.cancel(context.Canceled) })()
	for s.one() { //nolint:contextcheck // a mirrored request outlives the one that it is a copy of
		s.clock.rest()
	}
}

// one serves one request. It reports whether the connection takes another.
func (s *h1Server) one() bool {
	m, c := s.m, s.c
	if s.br.Buffered() == 0 {
		runtime.Gosched() // while others run, the next request may come, and nobody has to wait for the socket
	}
	if _, err := s.br.Peek(1); err != nil {
		return false
	}
	if m.headersTimeout > 0 {
		_ = c.SetReadDeadline(deadline(m.headersTimeout))
	}
	st := &Stream{m: m, conn: c}
	st.life.conn = c
	var names *http1.Names
	if m.keepNames {
		names = &st.names
	}
	req, err := http1.ReadRequestNames(&st.life, s.br, m.maxHeaderBytes, names)
	if m.headersTimeout > 0 {
		_ = c.SetReadDeadline(time.Time{})
	}
	if err == nil && req.ProtoMinor == 0 && !m.http10 {
		err = http1.ErrVersion
	}
	s.bw = http1.Writer(c.Conn)
	defer func() { http1.FreeWriter(s.bw) }()
	if err != nil {
		s.badRequest(err)
		return false
	}
	return s.serve(st, req)
}

func (s *h1Server) serve(st *Stream, req *http.Request) bool {
	w := &st.h1
	w.server, w.req, w.closeAfter = s, req, req.Close || isDraining(s.c)
	defer w.close()
	body := req.Body
	if expect := req.Header["Expect"]; len(expect) > 0 && strings.EqualFold(expect[0], "100-continue") && req.ProtoMinor > 0 && body != http.NoBody {
		req.Body = &continueBody{ReadCloser: body, w: w}
	}
	if s.m.requestTimeout > 0 && body != http.NoBody {
		_ = s.c.SetReadDeadline(deadline(s.m.requestTimeout))
		defer func() { _ = s.c.SetReadDeadline(time.Time{}) }()
	}
	st.begin(w, req)
	s.clock.begin(st)
	out := s.answer(st)
	s.clock.end()
	switch {
	case !out:
		return false
	case body == http.NoBody:
		return !w.closeAfter
	case !st.received.shut(s.c):
		s.linger(s.br)
		return false
	case st.received.ended.Load() != nil:
		return !w.closeAfter
	case w.closeAfter, !discard(body, 256<<10):
		s.linger(body)
		return false
	}
	return true
}

// answer serves the request and writes the rest of its answer. It reports whether the connection can go on.
func (s *h1Server) answer(st *Stream) bool {
	s.m.serving.Add(1)
	defer s.m.serving.Add(-1)
	st.serve()
	w := &st.h1
	return !w.hijacked && !w.broken && w.finish() == nil
}

// linger reads a little of what the client may still be sending, so that the close does not cost it the answer.
func (s *h1Server) linger(r io.Reader) {
	_ = s.c.SetReadDeadline(time.Now().Add(time.Second))
	_ = discard(r, 64<<10)
}

func isDraining(c *network.Conn) bool {
	select {
	case <-c.Draining:
		return true
	default:
		return false
	}
}

// badRequest answers bytes that are no acceptable request and logs them; the connection is then closed.
func (s *h1Server) badRequest(err error) {
	m := s.m
	var ne net.Error
	status, details := http.StatusBadRequest, "http1.codec_error"
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return
	case errors.As(err, &ne) && ne.Timeout():
		status, details = http.StatusRequestTimeout, "request_header_timeout"
	case errors.Is(err, http1.ErrTooLarge):
		status, details = http.StatusRequestHeaderFieldsTooLarge, "http1.headers_too_large"
	case errors.Is(err, http1.ErrVersion):
		status, details = http.StatusUpgradeRequired, "low_version"
	case errors.Is(err, http1.ErrCoding):
		status, details = http.StatusNotImplemented, "http1.invalid_transfer_encoding"
	}
	_ = s.c.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_, _ = fmt.Fprintf(s.bw, "HTTP/1.1 %d %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", status, http.StatusText(status))
	_ = s.bw.Flush()
	m.stats.total.Inc()
	m.stats.status[status/100].Inc()
	e := m.connEntry(s.c)
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
