package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// ConnectOptions vary one connection.
type ConnectOptions struct {
	ALPN     []string // overrides the transport socket's protocols
	SNI      string   // for auto_sni and auto_san_validation: the request's host
	Priority Priority
	// The client's connection, for endpoints that are told of it by a PROXY header.
	Client, Local netip.AddrPort
}

func (o ConnectOptions) key(proto Protocol) poolKey {
	k := poolKey{proto: proto, high: o.Priority == High, sni: o.SNI}
	switch len(o.ALPN) {
	case 0:
	case 1:
		k.alpn = o.ALPN[0]
	default:
		k.alpn = strings.Join(o.ALPN, ",")
	}
	return k
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
	if err := c.beginConnection(o.Priority, e, false); err != nil {
		return nil, err
	}
	return c.begun(ctx, e, o)
}

// begun goes on after beginConnection.
func (c *Cluster) begun(ctx context.Context, e *Endpoint, o ConnectOptions) (net.Conn, error) {
	nc, err := c.connect(ctx, e, o)
	if err != nil {
		c.endConnection(o.Priority, e)
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
	raw, err := dialHost(ctx, &d, e)
	if err != nil {
		return nil, reason(err)
	}
	if e.socket.proxy != 0 {
		if err := announce(ctx, raw, e.socket.proxy, o); err != nil {
			_ = raw.Close()
			return nil, err
		}
	}
	counted := &hostConn{Conn: raw, cluster: c, host: e, priority: o.Priority}
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
	counted.identify(tc.ConnectionState(), c.Identity(e))
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
	cluster  *Cluster
	host     *Endpoint
	priority Priority
	once     sync.Once
	// peer and local are the first URI names of the certificates on both sides, set before anybody else has the connection.
	peer, local string
}

func (h *hostConn) identify(st tls.ConnectionState, local string) {
	if len(st.PeerCertificates) == 0 || len(st.PeerCertificates[0].URIs) == 0 {
		return
	}
	h.peer, h.local = st.PeerCertificates[0].URIs[0].String(), local
}

// Principals returns the URI names that the two sides of a connection to an endpoint have shown each other; empty for
// plain text and for peers whose certificates have none.
func Principals(c net.Conn) (peer, local string) {
	if tc, ok := c.(*tls.Conn); ok {
		if h, ok := tc.NetConn().(*hostConn); ok {
			return h.peer, h.local
		}
	}
	return "", ""
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
		h.cluster.endConnection(h.priority, h.host)
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
		o = ConnectOptions{Priority: o.Priority, Client: o.Client, Local: o.Local}
	}
	p, temporary := c.pool(e, o.key(proto), o)
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
		IdleTimeout: c.idleTimeout, MaxRequests: c.maxPerConn, MaxAge: c.maxAge, MaxStreams: c.streams,
		Ping: c.ping, PingTimeout: c.pingWait, Overflow: errPending, KeepNames: c.keepNames,
		Enqueue: func() (func(), bool) { return c.enqueue(o.Priority) },
		Full:    func(err error) bool { return errors.Is(err, ErrOverflow) && !errors.Is(err, errPending) },
	}
	switch proto {
	case HTTP2:
		return upstream.NewH2(func(ctx context.Context) (net.Conn, error) { return c.pooled(ctx, e, o, false) }, opts)
	case Auto:
		return &autoPool{c: c, e: e, o: o, opts: opts, turn: make(chan struct{}, 1)}
	default:
		return upstream.NewH1(func(ctx context.Context) (net.Conn, error) { return c.pooled(ctx, e, o, true) }, opts)
	}
}

// pooled opens a connection for a pool. Over HTTP/1.1 one request waits for it, and counts as such.
func (c *Cluster) pooled(ctx context.Context, e *Endpoint, o ConnectOptions, waits bool) (net.Conn, error) {
	if err := c.beginConnection(o.Priority, e, true); err != nil {
		return nil, err
	}
	if waits {
		if err := c.beginPending(o.Priority); err != nil {
			c.endConnection(o.Priority, e)
			return nil, err
		}
		defer c.endPending(o.Priority)
	}
	return c.begun(ctx, e, o)
}

// autoPool learns by ALPN whether the endpoint speaks HTTP/2 and keeps to it.
type autoPool struct {
	c    *Cluster
	e    *Endpoint
	o    ConnectOptions
	opts upstream.Options
	turn chan struct{} // full while somebody reads or sets what follows
	pool upstream.Pool

	http1 bool
}

func (a *autoPool) RoundTrip(req *http.Request) (*http.Response, error) {
	p, err := a.learned(req.Context())
	if err != nil {
		return nil, &upstream.Error{Stage: upstream.Connecting, Err: err}
	}
	return p.RoundTrip(req)
}

// learned returns the pool for what the endpoint speaks. The first request finds that out by a connection, which it then
// uses; those that come meanwhile wait for it, each for as long as its own context lasts.
func (a *autoPool) learned(ctx context.Context) (upstream.Pool, error) {
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if a.pool == nil {
		if len(a.o.ALPN) == 0 {
			a.o.ALPN = []string{"h2", "http/1.1"}
		}
		nc, err := a.c.pooled(ctx, a.e, a.o, true)
		if err != nil {
			return nil, err
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
			return a.c.pooled(ctx, a.e, a.o, a.http1)
		}
		if tc, ok := nc.(*tls.Conn); ok && tc.ConnectionState().NegotiatedProtocol == "h2" {
			a.pool = upstream.NewH2(dial, a.opts)
		} else {
			a.http1 = true
			a.pool = upstream.NewH1(dial, a.opts)
		}
	}
	return a.pool, nil
}

func (a *autoPool) Close() {
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	if a.pool != nil {
		a.pool.Close()
	}
}

// ConnectTimeout returns how long a connection attempt may take.
func (c *Cluster) ConnectTimeout() time.Duration { return c.connectTimeout }
