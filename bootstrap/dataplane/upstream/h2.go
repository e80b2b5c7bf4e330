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
	served uint32
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
		ReadIdleTimeout:            0,
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
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if c.Shutdown(ctx) != nil {
				_ = c.ClientConn.Close()
			}
		}()
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
	}
	t.watch(req)
	resp, err := c.RoundTrip(req)
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
	var ga http2.GoAwayError
	if errors.As(err, &ga) || strings.Contains(err.Error(), "http2: client connection lost") {
		return BeforeResponse
	}
	return BeforeResponse
}

// reserve finds a connection with room for one more stream, or dials one; dialling is shared by waiting requests.
func (p *H2) reserve(ctx context.Context) (*h2Conn, error) {
	for range 4 {
		p.mu.Lock()
		kept := p.conns[:0]
		var found *h2Conn
		for _, c := range p.conns {
			if found == nil && c.ReserveNewRequest() {
				found = c
				if c.served++; p.opts.MaxRequests > 0 && c.served >= p.opts.MaxRequests {
					c.SetDoNotReuse()
					continue // the request that has it finishes; nobody else gets it
				}
			}
			if st := c.State(); st.Closed || (st.Closing && st.StreamsActive == 0) {
				continue
			}
			kept = append(kept, c)
		}
		p.conns = kept
		if found != nil {
			p.mu.Unlock()
			return found, nil
		}
		d := p.pending
		if d == nil {
			d = &dialing{done: make(chan struct{})}
			p.pending = d
			go p.connect(context.WithoutCancel(ctx), d)
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-d.done:
			if d.err != nil {
				return nil, d.err
			}
		}
	}
	return nil, errors.New("no HTTP/2 connection takes another stream")
}

func (p *H2) connect(ctx context.Context, d *dialing) {
	raw, err := p.dial(ctx)
	if err == nil {
		if p.opts.OnConnect != nil {
			p.opts.OnConnect()
		}
		counted := &closeHook{Conn: raw, fn: p.opts.OnClose}
		var cc *http2.ClientConn
		if cc, err = p.transport.NewClientConn(counted); err == nil {
			d.conn = &h2Conn{ClientConn: cc, raw: raw, id: network.NextID()}
		} else {
			_ = counted.Close()
		}
	}
	d.err = err
	p.mu.Lock()
	p.pending = nil
	if d.conn != nil {
		if p.closed {
			_ = d.conn.ClientConn.Close()
			d.err = net.ErrClosed
		} else {
			p.conns = append(p.conns, d.conn)
		}
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
