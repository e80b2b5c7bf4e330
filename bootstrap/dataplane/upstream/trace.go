package upstream

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/http1"
)

type traceKey struct{}

// Trace collects facts about one round trip. But for Sent they are for whoever called RoundTrip, after it has returned.
type Trace struct {
	// Names are those of the request's headers where they were kept: over HTTP/1.1 they go out so. Answer are those of the
	// response's, where the pool keeps them.
	Names, Answer http1.Names

	Local    net.Addr
	Remote   net.Addr
	Conn     net.Conn
	ID       uint64 // the connection's, from network.NextID
	Protocol string // "HTTP/1.1" or "HTTP/2"
	// Answered is when the response began: over HTTP/1.1 with its first byte, interim responses not counted, over HTTP/2
	// with its headers. Zero where none came.
	Answered time.Time
	// Ready, where it is set, is called when the request has its connection; again where that turns out to be dead.
	Ready  func()
	sent   atomic.Pointer[time.Time]
	sentAt time.Time // what sent points to where one goroutine does all
}

// Sent returns when the last byte of the request went out: over HTTP/1.1 to the kernel, over HTTP/2 and where the
// response came sooner into the connection's buffers. It is zero while bytes are missing.
func (t *Trace) Sent() time.Time {
	if at := t.sent.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

func (t *Trace) nowSent() {
	now := time.Now()
	t.sent.Store(&now)
}

// nowSentAlone does the same for a request without a body, which nobody but the caller can be sending.
func (t *Trace) nowSentAlone() {
	t.sentAt = time.Now()
	t.sent.Store(&t.sentAt)
}

// WithTrace returns a context whose round trip fills t. A Trace serves one round trip.
func WithTrace(ctx context.Context, t *Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

// traceOf returns the trace of a request, one that nobody looks at where there is none.
func traceOf(ctx context.Context) *Trace {
	if a, ok := ctx.(Abortable); ok {
		return a.UpstreamTrace()
	}
	if t, ok := ctx.Value(traceKey{}).(*Trace); ok {
		return t
	}
	return &Trace{}
}

func (t *Trace) use(c net.Conn, id uint64, protocol string) {
	t.Local, t.Remote, t.Conn, t.ID, t.Protocol = c.LocalAddr(), c.RemoteAddr(), c, id, protocol
	if t.Ready != nil {
		t.Ready()
	}
}

// forget takes back what an attempt on a dead connection has left.
func (t *Trace) forget() {
	t.Local, t.Remote, t.Conn, t.ID, t.Protocol = nil, nil, nil, 0, ""
	t.sent.Store(nil)
}

// watch makes t notice when the last byte of the request's body is taken.
func (t *Trace) watch(req *http.Request) {
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &watchedBody{ReadCloser: req.Body, trace: t, left: req.ContentLength}
	}
}

type watchedBody struct {
	io.ReadCloser
	trace *Trace
	left  int64 // negative for an unknown length
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	known := b.left >= 0
	if known {
		b.left -= int64(n)
	}
	if err == io.EOF || (known && b.left == 0 && n > 0) {
		b.trace.nowSent()
	}
	return n, err
}
