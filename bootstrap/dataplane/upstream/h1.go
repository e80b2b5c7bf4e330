package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

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
	br      *bufio.Reader
	bw      *bufio.Writer
	limit   *HeadLimit
	since   time.Time // idle since
	served  uint32
	onceEnd sync.Once
}

func (c *h1Conn) end() {
	c.onceEnd.Do(func() {
		_ = c.Conn.Close()
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

func (p *H1) take() *h1Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.idle) > 0 {
		c := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		if c.br.Buffered() == 0 && quiet(c.Conn) {
			return c
		}
		c.end()
	}
	return nil
}

func (p *H1) put(c *h1Conn) {
	c.served++
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || (p.opts.MaxRequests > 0 && c.served >= p.opts.MaxRequests) {
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
	limit := NewHeadLimit(nc)
	return &h1Conn{
		Conn: nc, id: network.NextID(), pool: p, br: bufio.NewReaderSize(limit, 16<<10), bw: bufio.NewWriterSize(nc, 16<<10), limit: limit,
	}, nil
}

// RoundTrip implements Pool.
func (p *H1) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	t := traceOf(ctx)
	t.watch(req)
	if c := p.take(); c != nil {
		src := req.Body
		body := &countedBody{ReadCloser: src}
		if src != nil && src != http.NoBody {
			req.Body = body
		}
		resp, err := p.exchange(ctx, c, req)
		// The peer may have closed an idle connection just as it was taken: nothing was answered, try a fresh one.
		if !errors.Is(err, errStale) || !body.retire() || ctx.Err() != nil {
			return resp, unstale(err)
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
	resp, err := p.exchange(ctx, c, req)
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
func (p *H1) exchange(ctx context.Context, c *h1Conn, req *http.Request) (*http.Response, error) {
	t := traceOf(ctx)
	t.use(c.Conn, c.id, "HTTP/1.1")
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	written := writeAsync(c, req, t)
	resp, err := c.readResponse(req, t)
	if err != nil {
		stop()
		c.end()
		if ctx.Err() != nil {
			return nil, failed(ctx, BeforeResponse, err)
		}
		if c.served > 0 && isClosed(err) {
			return nil, fmt.Errorf("%w: %w", errStale, err)
		}
		return nil, failed(ctx, BeforeResponse, err)
	}
	b := &h1Body{src: resp.Body, conn: c, written: written, stop: stop, keep: !resp.Close && !req.Close}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &upgraded{h1Body: b}
		return resp, nil
	}
	resp.Body = b
	if resp.ContentLength == 0 || b.src == http.NoBody || req.Method == http.MethodHead {
		b.finish(true)
	}
	return resp, nil
}

// maxHead bounds the head of a response, interim responses included.
const maxHead = 96 << 10

// readResponse skips interim responses.
func (c *h1Conn) readResponse(req *http.Request, t *Trace) (*http.Response, error) {
	c.limit.Begin(maxHead)
	defer c.limit.End()
	for range 16 {
		if _, err := c.br.Peek(1); err != nil {
			return nil, err
		}
		began := time.Now()
		resp, err := http.ReadResponse(c.br, req)
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
