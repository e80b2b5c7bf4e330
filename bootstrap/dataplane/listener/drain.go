package listener

import (
	"context"
	"net"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

// Drain tells connections to finish: HTTP answers carry "connection: close" or GOAWAY. inboundOnly leaves outbound
// listeners alone. When graceful, sockets stay open for the drain time, and after it too when skipExit says so; otherwise
// they close now. Static listeners are left alone.
func (m *Manager) Drain(inboundOnly, graceful, skipExit bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range []network.Direction{network.Inbound, network.Outbound, network.Unspecified} {
		if d == network.Inbound || !inboundOnly {
			m.draining[d] = true
		}
	}
	for _, l := range m.active {
		if l.Static || !m.draining[l.Direction] {
			continue
		}
		for _, c := range l.all() {
			c.drain()
		}
	}
	switch {
	case graceful && skipExit:
	case !graceful:
		m.closeSockets()
	default:
		m.wg.Add(1)
		go func() {
			defer m.wg.Done()
			t := time.NewTimer(m.cfg.DrainTime)
			defer t.Stop()
			select {
			case <-t.C:
			case <-m.ctx.Done():
				return
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.closeSockets()
		}()
	}
}

// closeSockets closes the sockets of what drains. Whoever has connected by now is still served. The caller holds mu.
func (m *Manager) closeSockets() {
	for d := range m.draining {
		m.stopped[d] = true
	}
	for a, s := range m.sockets {
		if o := s.owner.Load(); o.Static || !m.draining[o.Direction] {
			continue
		}
		s.shut()
		delete(m.sockets, a)
	}
}

// queueTime is how long connections that wait to be accepted are accepted after a socket is to be closed.
const queueTime = 50 * time.Millisecond

// shut closes the socket once the queue of connections is empty: closing it at once would reset them.
func (s *socket) shut() {
	s.closing.Store(true)
	if t, ok := s.ln.(*net.TCPListener); ok && t.SetDeadline(time.Now().Add(queueTime)) == nil {
		return
	}
	_ = s.ln.Close()
}

// heedsHealth reports whether the listener drains while the health check fails.
func (l *Listener) heedsHealth() bool {
	return !l.Static && l.Proto.GetDrainType() != listenerv3.Listener_MODIFY_ONLY
}

// Fail drains all listeners but the static ones, without an end, or lets connections that come from now on stay.
func (m *Manager) Fail(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failing = on
	for _, l := range m.active {
		if !l.heedsHealth() || m.draining[l.Direction] {
			continue
		}
		for _, c := range l.all() {
			if on {
				c.drain()
			} else {
				c.resume()
			}
		}
	}
}

// Idle waits until no request and no TCP connection is under way, or ctx ends. It begins with a moment for clients that
// have connected and not yet sent anything.
func (m *Manager) Idle(ctx context.Context) {
	const check = 20 * time.Millisecond
	t := time.NewTimer(4 * queueTime)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if !m.busy() {
			return
		}
		t.Reset(check)
	}
}

func (m *Manager) busy() bool {
	for _, l := range m.Active() {
		if l.Static {
			continue
		}
		for _, c := range l.all() {
			if b, ok := c.terminal.(interface{ Busy() bool }); ok && b.Busy() {
				return true
			}
		}
	}
	return false
}
