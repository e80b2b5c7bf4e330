package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/http1"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

// H1 pools HTTP/1.1 connections. The zero value is not usable; call NewH1.
type H1 struct {
	dial   Dial
	opts   Options
	mu     sync.Mutex
	idle   []*h1Conn // most recently used last
	closed bool
	sweep  *time.Timer
	queue  queue
}

var _ Pool = (*H1)(nil)

// NewH1 returns an empty pool.
func NewH1(dial Dial, opts Options) *H1 { return &H1{dial: dial, opts: opts} }

type h1Conn struct {
	net.Conn
	id      uint64
	pool    *H1
	br      *bufio.Reader // while a request has the connection
	bw      *bufio.Writer
	since   time.Time // idle since
	made    time.Time
	served  uint32
	onceEnd sync.Once
}

// Abort implements Aborter: whatever reads or writes returns at once.
func (c *h1Conn) Abort() { _ = c.SetDeadline(time.Unix(1, 0)) }

// prepare lends buffers to a connection that gets a request.
func (c *h1Conn) prepare() {
	if c.br == nil {
		c.br, c.bw = http1.Reader(c.Conn), http1.Writer(c.Conn)
	}
}

// rest takes the buffers of a connection that nobody uses. It reports false where the server has sent what nobody has
// asked for.
func (c *h1Conn) rest() bool {
	if c.br.Buffered() > 0 {
		return false
	}
	http1.FreeReader(c.br)
	http1.FreeWriter(c.bw)
	c.br, c.bw = nil, nil
	return true
}

func (c *h1Conn) end() {
	c.onceEnd.Do(func() {
		_ = c.Close()
		if c.pool.opts.OnClose != nil {
			c.pool.opts.OnClose()
		}
		c.pool.queue.hand(nil)
	})
}

// Close implements Pool.
func (p *H1) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.idle {
		c.end()
	}
	p.idle = nil
	if p.sweep != nil {
		p.sweep.Stop()
	}
}

// fresh is how long a connection is trusted without a look at its socket, by requests that may be sent once more.
const fresh = time.Second

// take gives an idle connection, nil where there is none. Where the request must not be sent twice, the socket has to
// show that the server has not closed it.
func (p *H1) take(repeatable bool) *h1Conn {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if (repeatable && time.Since(c.since) < fresh || quiet(c.Conn)) && !p.opts.old(c.made) {
			return c
		}
		c.end()
	}
}

func (p *H1) put(c *h1Conn) {
	c.served++
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || (p.opts.MaxRequests > 0 && c.served >= p.opts.MaxRequests) || p.opts.old(c.made) || c.br != nil && !c.rest() {
		c.end()
		return
	}
	if p.queue.hand(c) {
		return
	}
	c.since = time.Now()
	p.idle = append(p.idle, c)
	if p.sweep == nil {
		p.sweep = time.AfterFunc(p.opts.idle(), p.expire)
	}
}

// expire closes connections that were idle too long; the oldest stand first.
func (p *H1) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep = nil
	n := 0
	for n < len(p.idle) && time.Since(p.idle[n].since) >= p.opts.idle() {
		p.idle[n].end()
		n++
	}
	p.idle = append([]*h1Conn(nil), p.idle[n:]...)
	if len(p.idle) > 0 && !p.closed {
		p.sweep = time.AfterFunc(max(p.opts.idle()-time.Since(p.idle[0].since), time.Millisecond), p.expire)
	}
}

func (p *H1) connect(ctx context.Context) (*h1Conn, error) {
	nc, err := p.dial(ctx)
	if err != nil {
		return nil, failed(ctx, Connecting, err)
	}
	if p.opts.OnConnect != nil {
		p.opts.OnConnect()
	}
	return &h1Conn{Conn: nc, id: network.NextID(), pool: p, made: time.Now()}, nil
}

// safe reports whether requests of a method change nothing (RFC 9110, 9.2.1).
func safe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// idempotent reports whether a request that is sent twice does what it does once (RFC 9110, 9.2.2).
func idempotent(method string) bool {
	return safe(method) || method == http.MethodPut || method == http.MethodDelete
}

// repeatable reports whether the request changes nothing and can be sent twice as it is.
func repeatable(req *http.Request) bool {
	return safe(req.Method) && (req.Body == nil || req.Body == http.NoBody)
}

// RoundTrip implements Pool.
func (p *H1) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	t := traceOf(ctx)
	t.watch(req)
	if c := p.take(repeatable(req)); c != nil {
		src := req.Body
		var body *countedBody
		if src != nil && src != http.NoBody {
			body = &countedBody{ReadCloser: src}
			req.Body = body
		}
		resp, err := p.exchange(ctx, c, req, t)
		if err == nil {
			return resp, nil
		}
		// The peer may have closed an idle connection just as it was taken: nothing was answered, try a fresh one.
		// It may as well have closed while it worked on the request, which then must be one that does no harm twice.
		if !errors.Is(err, errStale) || body == nil && !idempotent(req.Method) || body != nil && !body.retire() || ctx.Err() != nil {
			return nil, unstale(err)
		}
		req.Body = src
		t.forget()
	}
	c, err := p.connect(ctx)
	if err != nil && p.opts.Full != nil && p.opts.Full(err) {
		c, err = p.wait(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	resp, err := p.exchange(ctx, c, req, t)
	return resp, unstale(err)
}

var errStale = errors.New("connection closed before the response began")

func unstale(err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{BeforeResponse, err}
}

// exchange writes req on c and reads the response head. On error c is closed.
func (p *H1) exchange(ctx context.Context, c *h1Conn, req *http.Request, t *Trace) (*http.Response, error) {
	t.use(c.Conn, c.id, "HTTP/1.1")
	c.prepare()
	b := &h1Body{conn: c}
	b.guard(ctx)
	b.written = writeAsync(c, req, t)
	resp, err := c.readResponse(req, t)
	if err != nil {
		b.release()
		c.end()
		if ctx.Err() != nil {
			return nil, failed(ctx, BeforeResponse, err)
		}
		if c.served > 0 && isClosed(err) {
			return nil, fmt.Errorf("%w: %w", errStale, err)
		}
		return nil, failed(ctx, BeforeResponse, err)
	}
	b.src, b.keep = resp.Body, !resp.Close && !req.Close
	if resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &upgraded{h1Body: b}
		return resp, nil
	}
	resp.Body = b
	if b.src == http.NoBody {
		b.finish(true)
	}
	return resp, nil
}

// maxHead bounds the head of a response.
const maxHead = 96 << 10

// readResponse skips interim responses.
func (c *h1Conn) readResponse(req *http.Request, t *Trace) (*http.Response, error) {
	// Under load the response is there when the others have run: no vain read, no wait for the socket.
	runtime.Gosched()
	for range 16 {
		if _, err := c.br.Peek(1); err != nil {
			return nil, err
		}
		began := time.Now()
		var names *http1.Names
		if c.pool.opts.KeepNames {
			names = &t.Answer
		}
		resp, err := http1.ReadResponseNames(c.br, req, maxHead, names)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			t.Answered = began
			return resp, nil
		}
	}
	return nil, errors.New("too many interim responses")
}

func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || isReset(err)
}

// countedBody is a body that one attempt has for itself until it retires unread.
type countedBody struct {
	io.ReadCloser
	mu      sync.Mutex
	read    bool
	retired bool
}

func (b *countedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.read = true
	retired := b.retired
	b.mu.Unlock()
	if retired {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.ReadCloser.Read(p)
}

// retire takes the body away from its attempt, whose writer may still be about to read. It reports whether nothing has
// been read, so that another attempt finds the body whole.
func (b *countedBody) retire() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retired = true
	return !b.read
}
