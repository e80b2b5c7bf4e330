package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// ConnectOptions vary one connection.
type ConnectOptions struct {
	ALPN []string // overrides the transport socket's protocols
	SNI  string   // for auto_sni and auto_san_validation: the request's host
}

func (o ConnectOptions) key(proto Protocol) string {
	var b strings.Builder
	b.WriteByte('0' + byte(proto))
	for _, p := range o.ALPN {
		b.WriteByte(',')
		b.WriteString(p)
	}
	b.WriteByte(';')
	b.WriteString(o.SNI)
	return b.String()
}

// TLSError is a failed handshake with an endpoint.
type TLSError struct{ Err error }

// Error implements error with the words that Envoy's %UPSTREAM_TRANSPORT_FAILURE_REASON% starts with.
func (e *TLSError) Error() string { return "TLS_error: " + e.Err.Error() }

// Unwrap gives the cause.
func (e *TLSError) Unwrap() error { return e.Err }

// Connect opens a connection to e, bounded by the cluster's connect timeout. The result is a *tls.Conn where the
// transport socket says TLS. Closing it updates the endpoint's counters.
func (c *Cluster) Connect(ctx context.Context, e *Endpoint, o ConnectOptions) (net.Conn, error) {
	if n := c.connections.Add(1); c.limits.Connections > 0 && n > int64(c.limits.Connections) {
		c.connections.Add(-1)
		c.Stats.ConnOverflow.Inc()
		return nil, ErrOverflow
	}
	nc, err := c.connect(ctx, e, o)
	if err != nil {
		c.connections.Add(-1)
		c.Stats.ConnectFail.Inc()
		e.ConnFail.Add(1)
		return nil, err
	}
	c.Stats.Connects.Inc()
	c.Stats.ActiveConns.Inc()
	e.Conns.Add(1)
	e.ConnTotal.Add(1)
	return nc, nil
}

func (c *Cluster) connect(ctx context.Context, e *Endpoint, o ConnectOptions) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.connectTimeout)
	defer cancel()
	d := net.Dialer{KeepAlive: -1}
	if c.keepalive.on {
		d.KeepAliveConfig = net.KeepAliveConfig{
			Enable: true, Idle: c.keepalive.idle, Interval: c.keepalive.interval, Count: c.keepalive.probes,
		}
	}
	if c.bind.IsValid() && e.Network == "tcp" && c.bind.Is4() == e.Addr.Addr().Is4() {
		d.LocalAddr = &net.TCPAddr{IP: c.bind.AsSlice()}
	}
	raw, err := d.DialContext(ctx, e.Network, e.Address)
	if err != nil {
		return nil, reason(err)
	}
	counted := &hostConn{Conn: raw, cluster: c, host: e}
	if e.socket.tls == nil {
		return counted, nil
	}
	to := tlsctx.Options{ALPN: o.ALPN}
	if c.autoSNI {
		to.SNI = o.SNI
	}
	if c.autoSAN {
		to.SAN = o.SNI
	}
	tc, err := e.socket.tls.Handshake(ctx, counted, to)
	if err != nil {
		_ = raw.Close()
		c.Stats.TLSFail.Inc()
		if errors.Is(err, tlsctx.ErrPeerIdentity) {
			c.Stats.TLSVerifyFail.Inc()
		}
		return nil, &TLSError{err}
	}
	c.Stats.TLSHandshake.Inc()
	return tc, nil
}

// reason shortens a dial error to what Envoy's log would say about it.
func reason(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		if op.Timeout() {
			return fmt.Errorf("connection timeout: %w", op.Err)
		}
		return fmt.Errorf("delayed connect error: %w", op.Err)
	}
	return err
}

// hostConn keeps the counters of its endpoint and cluster.
type hostConn struct {
	net.Conn
	cluster *Cluster
	host    *Endpoint
	once    sync.Once
}

// NetConn gives the socket beneath.
func (h *hostConn) NetConn() net.Conn { return h.Conn }

// CloseWrite passes on the end of a stream.
func (h *hostConn) CloseWrite() error {
	if cw, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

func (h *hostConn) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	h.cluster.Stats.Received.Add(uint64(n))
	return n, err
}

func (h *hostConn) Write(p []byte) (int, error) {
	n, err := h.Conn.Write(p)
	h.cluster.Stats.Sent.Add(uint64(n))
	return n, err
}

func (h *hostConn) Close() error {
	h.once.Do(func() {
		h.cluster.connections.Add(-1)
		h.cluster.Stats.ActiveConns.Dec()
		h.cluster.Stats.Closed.Inc()
		h.host.Conns.Add(-1)
	})
	return h.Conn.Close()
}

// RoundTrip sends req to e over a pooled connection. major is the HTTP version of the client's request. Request
// counters are the caller's business; connection counters are kept here.
func (c *Cluster) RoundTrip(e *Endpoint, req *http.Request, major int, o ConnectOptions) (*http.Response, error) {
	proto := c.ProtocolFor(major)
	if !c.autoSNI && !c.autoSAN {
		o.SNI = ""
	}
	if e.socket.tls == nil {
		o = ConnectOptions{}
	}
	p, temporary := e.pool(o.key(proto), func() upstream.Pool { return c.newPool(e, proto, o) })
	resp, err := p.RoundTrip(req)
	if temporary {
		p.Close()
	}
	return resp, err
}

// ProtocolFor tells which HTTP version the cluster's endpoints are spoken to with, for a client of that major version.
func (c *Cluster) ProtocolFor(major int) Protocol {
	switch c.Protocol {
	case Downstream:
		if major == 2 {
			return HTTP2
		}
		return HTTP1
	default:
		return c.Protocol
	}
}

func (c *Cluster) newPool(e *Endpoint, proto Protocol, o ConnectOptions) upstream.Pool {
	opts := upstream.Options{
		IdleTimeout: c.idleTimeout, MaxRequests: c.maxPerConn, Enqueue: c.enqueue,
		Full: func(err error) bool { return errors.Is(err, ErrOverflow) },
	}
	dial := func(ctx context.Context) (net.Conn, error) { return c.Connect(ctx, e, o) }
	switch proto {
	case HTTP2:
		return upstream.NewH2(dial, opts)
	case Auto:
		return &autoPool{c: c, e: e, o: o, opts: opts}
	default:
		return upstream.NewH1(dial, opts)
	}
}

// enqueue counts a request that waits for a connection against the circuit breaker.
func (c *Cluster) enqueue() (func(), bool) {
	if n := c.pending.Add(1); c.limits.Pending > 0 && n > int64(c.limits.Pending) {
		c.pending.Add(-1)
		c.Stats.Overflow.Inc()
		return nil, false
	}
	return func() { c.pending.Add(-1) }, true
}

// autoPool learns by ALPN whether the endpoint speaks HTTP/2 and keeps to it.
type autoPool struct {
	c    *Cluster
	e    *Endpoint
	o    ConnectOptions
	opts upstream.Options
	mu   sync.Mutex
	pool upstream.Pool
}

func (a *autoPool) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	if a.pool == nil {
		if len(a.o.ALPN) == 0 {
			a.o.ALPN = []string{"h2", "http/1.1"}
		}
		nc, err := a.c.Connect(req.Context(), a.e, a.o)
		if err != nil {
			a.mu.Unlock()
			return nil, &upstream.Error{Stage: upstream.Connecting, Err: err}
		}
		first := nc
		var once sync.Mutex
		dial := func(ctx context.Context) (net.Conn, error) {
			once.Lock()
			defer once.Unlock()
			if f := first; f != nil {
				first = nil
				return f, nil
			}
			return a.c.Connect(ctx, a.e, a.o)
		}
		if tc, ok := nc.(*tls.Conn); ok && tc.ConnectionState().NegotiatedProtocol == "h2" {
			a.pool = upstream.NewH2(dial, a.opts)
		} else {
			a.pool = upstream.NewH1(dial, a.opts)
		}
	}
	p := a.pool
	a.mu.Unlock()
	return p.RoundTrip(req)
}

func (a *autoPool) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pool != nil {
		a.pool.Close()
	}
}

// ConnectTimeout returns how long a connection attempt may take.
func (c *Cluster) ConnectTimeout() time.Duration { return c.connectTimeout }
