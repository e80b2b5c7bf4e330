package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

// H2 pools HTTP/2 connections, opening another when all are at the peer's stream limit.
type H2 struct {
	dial      Dial
	opts      Options
	transport *http2.Transport
	mu        sync.Mutex
	conns     []*h2Conn
	pending   *dialing
	closed    bool
}

var _ Pool = (*H2)(nil)

type h2Conn struct {
	*http2.ClientConn
	raw    net.Conn
	id     uint64
	made   time.Time
	served uint32

	// Of the pool's lock: requests that have taken a stream and are not answered yet, and whether the connection is to
	// close. A GOAWAY sent before a stream is known to the peer would cost that stream, so the two wait for each other.
	starting int
	leaving  bool
}

// room reports whether our own limits let c take one more stream.
func (c *h2Conn) room(o *Options) bool {
	if o.MaxStreams == 0 {
		return true
	}
	st := c.State()
	return st.StreamsActive+st.StreamsReserved+st.StreamsPending < int(o.MaxStreams)
}

type dialing struct {
	done chan struct{}
	conn *h2Conn
	err  error
}

// NewH2 returns an empty pool.
func NewH2(dial Dial, opts Options) *H2 {
	return &H2{dial: dial, opts: opts, transport: &http2.Transport{
		AllowHTTP:                  true,
		DisableCompression:         true,
		StrictMaxConcurrentStreams: false,
		ReadIdleTimeout:            opts.Ping,
		PingTimeout:                opts.PingTimeout,
		IdleConnTimeout:            opts.idle(),
		MaxHeaderListSize:          96 << 10,
		MaxReadFrameSize:           64 << 10,
	}}
}

// Close implements Pool.
func (p *H2) Close() {
	p.mu.Lock()
	conns := p.conns
	p.conns, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range conns {
		p.retire(c)
	}
}

// retire lets the connection close when its streams have ended.
func (p *H2) retire(c *h2Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.retireLocked()
}

func (c *h2Conn) retireLocked() {
	if c.leaving = true; c.starting == 0 {
		go c.drain()
	}
}

// begun says that a request which took a stream of c has got its answer, or none.
func (p *H2) begun(c *h2Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.starting--; c.starting == 0 && c.leaving {
		go c.drain()
	}
}

// RoundTrip implements Pool.
func (p *H2) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	c, err := p.reserve(ctx)
	if err != nil {
		return nil, failed(ctx, Connecting, err)
	}
	t := traceOf(ctx)
	t.use(c.raw, c.id, "HTTP/2")
	if req.Body == nil || req.Body == http.NoBody {
		t.nowSent()
	} else {
		req.Body = newLooseBody(req.Body)
	}
	t.watch(req)
	resp, err := c.RoundTrip(req)
	p.begun(c) //nolint:contextcheck // the connection is its own, and outlives the request
	if err != nil {
		return nil, failed(ctx, h2Stage(err), err)
	}
	t.Answered = time.Now()
	return resp, nil
}

func h2Stage(err error) Stage {
	var se http2.StreamError
	if errors.As(err, &se) && se.Code == http2.ErrCodeRefusedStream {
		return Refused
	}
	// What the peer has said that it did not look at; the errors have no other name.
	if s := err.Error(); strings.Contains(s, "graceful shutdown GOAWAY") || strings.Contains(s, "client conn not usable") {
		return Refused
	}
	return BeforeResponse
}

// reserve finds a connection with room for one more stream, or dials one; dialling is shared by waiting requests.
func (p *H2) reserve(ctx context.Context) (*h2Conn, error) {
	c, d := p.find(ctx)
	switch {
	case c != nil:
		return c, nil
	case d == nil:
		return p.single(ctx)
	}
	if p.opts.Enqueue != nil {
		over, ok := p.opts.Enqueue()
		if !ok {
			return nil, p.opts.Overflow
		}
		defer over()
	}
	for dry := 0; dry < h2Rounds; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-d.done:
		}
		if d.err != nil {
			if p.opts.Full == nil || !p.opts.Full(d.err) {
				return nil, d.err
			}
			if err := pause(ctx); err != nil {
				return nil, err
			}
		}
		if d.err == nil {
			dry++
		}
		if c, d = p.find(ctx); c != nil {
			return c, nil
		}
		if d == nil {
			return p.single(ctx)
		}
	}
	return nil, errors.New("no HTTP/2 connection takes another stream")
}

// h2Rounds bounds how many new connections a request sees filled up by others: a peer that allows no streams at all must
// not be dialled for ever.
const h2Rounds = 64

// pause waits for a stream or a connection to come free.
func pause(ctx context.Context) error {
	t := time.NewTimer(retryFull / 5)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// single makes a connection for one request of a pool that is closed: the request was under way when its host or
// cluster went.
func (p *H2) single(ctx context.Context) (*h2Conn, error) {
	c, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	if !c.ReserveNewRequest() {
		_ = c.Close()
		return nil, errors.New("a new HTTP/2 connection takes no stream")
	}
	c.starting, c.leaving = 1, true
	return c, nil
}

// find takes a stream on a connection that has room, or joins the dialling of a new one. Both are nil once the pool is
// closed.
func (p *H2) find(ctx context.Context) (*h2Conn, *dialing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil
	}
	kept := p.conns[:0]
	var found *h2Conn
	for _, c := range p.conns {
		if c.served > 0 && p.opts.old(c.made) {
			c.retireLocked() //nolint:contextcheck // the connection is its own, and outlives the request
			continue
		}
		if found == nil && c.room(&p.opts) && c.ReserveNewRequest() {
			found = c
			c.starting++
			if c.served++; p.opts.MaxRequests > 0 && c.served >= p.opts.MaxRequests {
				c.retireLocked() //nolint:contextcheck // the connection is its own, and outlives the request
				continue         // the request that has it finishes; nobody else gets it
			}
		}
		if st := c.State(); st.Closed || (st.Closing && st.StreamsActive == 0) {
			continue
		}
		kept = append(kept, c)
	}
	clear(p.conns[len(kept):])
	p.conns = kept
	if found != nil {
		return found, nil
	}
	if p.pending == nil {
		p.pending = &dialing{done: make(chan struct{})}
		go p.connect(context.WithoutCancel(ctx), p.pending)
	}
	return nil, p.pending
}

// drain closes the connection once its streams have ended.
func (c *h2Conn) drain() { _ = c.Shutdown(context.Background()) }

// open dials one connection.
func (p *H2) open(ctx context.Context) (*h2Conn, error) {
	raw, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	if p.opts.OnConnect != nil {
		p.opts.OnConnect()
	}
	counted := &closeHook{Conn: raw, fn: p.opts.OnClose}
	cc, err := p.transport.NewClientConn(counted)
	if err != nil {
		_ = counted.Close()
		return nil, err
	}
	return &h2Conn{ClientConn: cc, raw: raw, id: network.NextID(), made: time.Now()}, nil
}

func (p *H2) connect(ctx context.Context, d *dialing) {
	c, err := p.open(ctx)
	d.err = err
	p.mu.Lock()
	p.pending = nil
	switch {
	case c == nil:
	case p.closed:
		_ = c.Close() // those who wait for it find out, and make their own
	default:
		d.conn = c
		p.conns = append(p.conns, c)
	}
	p.mu.Unlock()
	close(d.done)
}

// closeHook runs fn once when the connection closes.
type closeHook struct {
	net.Conn
	once sync.Once
	fn   func()
}

func (c *closeHook) Close() error {
	c.once.Do(func() {
		if c.fn != nil {
			c.fn()
		}
	})
	return c.Conn.Close()
}
