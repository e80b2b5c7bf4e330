package listener

import (
	"context"
	"errors"
	"net"
	"runtime/debug"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

// serve takes one accepted connection through its listener to the end.
func (m *Manager) serve(ctx context.Context, nc net.Conn, l *Listener) {
	pk := &peeked{Conn: nc}
	i := &inspection{conn: network.New(pk), bytes: pk}
	i.conn.Direction, i.conn.Listener = l.Direction, l.Name
	if l.handOff {
		_ = restoreDestination(i)
		if i.conn.Restored {
			if t := m.lookup(i.conn.Local, l); t != nil {
				l = t
				i.conn.Direction, i.conn.Listener = l.Direction, l.Name
			}
		}
	}
	l.stats.total.Inc()
	l.stats.active.Inc()
	defer l.stats.active.Dec()
	defer l.stats.destroyed.Inc()
	defer i.conn.Finish()
	// A defect met by one connection must not end the others.
	defer func() {
		if r := recover(); r != nil {
			l.stats.panics.Inc()
			m.log.Error("panic", "listener", l.Name, "remote", i.conn.Remote, "err", r, "stack", string(debug.Stack()))
		}
	}()
	if !m.inspect(l, i) {
		return
	}
	if i.transport == "" {
		i.transport = "raw_buffer"
	}
	c := find(l.chains, factsOf(i.conn, i.transport))
	if c == nil {
		c = l.fallback
	}
	if c == nil {
		l.stats.noChain.Inc()
		m.log.Debug("no filter chain matches", "listener", l.Name, "local", i.conn.Local, "remote", i.conn.Remote,
			"transport", i.transport, "protocols", i.conn.Requested, "server_name", i.conn.ServerSNI)
		if l.rejected != nil {
			l.rejected(i.conn, "NR")
		}
		return
	}
	m.run(ctx, l, c, i.conn)
}

// inspect runs the listener filters. It reports whether the connection goes on.
func (m *Manager) inspect(l *Listener, i *inspection) bool {
	if len(l.filters) == 0 {
		return true
	}
	if l.timeout > 0 {
		_ = i.bytes.SetReadDeadline(time.Now().Add(l.timeout))
		defer func() { _ = i.bytes.SetReadDeadline(noDeadline) }()
	}
	for _, f := range l.filters {
		if f.disabled != nil && f.disabled(uint32(i.conn.Local.Port())) {
			continue
		}
		err := f.inspect(i)
		if err == nil {
			continue
		}
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() && l.timeout > 0 {
			l.stats.timeout.Inc()
			return l.continueOn
		}
		return false
	}
	return true
}

func (m *Manager) run(ctx context.Context, l *Listener, c *chain, conn *network.Conn) {
	conn.Chain = c.name
	c.mu.Lock()
	conn.Draining = c.draining
	c.conns[conn] = conn.Conn
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.conns, conn)
		c.mu.Unlock()
	}()
	if c.tls != nil {
		hs, cancel := context.WithTimeout(ctx, c.connect)
		tc, err := c.tls.Handshake(hs, conn.Conn)
		cancel()
		if err != nil {
			l.stats.tlsError.Inc()
			m.log.Debug("TLS handshake with client", "listener", l.Name, "remote", conn.Remote, "err", err)
			if l.rejected != nil {
				l.rejected(conn, "-")
			}
			return
		}
		l.stats.handshake.Inc()
		conn.Conn = tc
		conn.SetTLS(tc.ConnectionState())
		l.stats.secured(conn.TLS)
		conn.SetLocalCertificate(c.tls.Leaf())
	}
	for _, f := range c.filters {
		if err := f.OnConnection(ctx, conn); err != nil {
			m.log.Debug("connection refused", "listener", l.Name, "remote", conn.Remote, "why", err)
			if t, ok := c.terminal.(interface{ Refused(*network.Conn, error) }); ok {
				t.Refused(conn, err)
			}
			return
		}
	}
	c.terminal.Serve(ctx, conn)
}
