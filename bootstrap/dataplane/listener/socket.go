package listener

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// socket is one listening socket. Its owner changes as listeners are updated; the socket stays open.
type socket struct {
	ln      net.Listener
	owner   atomic.Pointer[Listener]
	closing atomic.Bool
}

// bind makes l the owner of the socket at a, opening it when it is new. The caller holds mu.
func (m *Manager) bind(a netip.AddrPort, l *Listener) error {
	if m.stopped[l.Direction] && !l.Static {
		return nil
	}
	if s, ok := m.sockets[a]; ok {
		if o := s.owner.Load(); o != nil && o.Name != l.Name {
			return fmt.Errorf("address %s is taken by listener %q", a, o.Name)
		}
		s.owner.Store(l)
		return nil
	}
	network := "tcp4"
	if a.Addr().Is6() {
		network = "tcp6"
	}
	cfg := net.ListenConfig{KeepAlive: -1}
	ln, err := cfg.Listen(m.ctx, network, a.String())
	if err != nil {
		return fmt.Errorf("bind %s: %w", a, err)
	}
	s := &socket{ln: ln}
	s.owner.Store(l)
	m.sockets[a] = s
	m.wg.Add(1)
	go m.accept(s)
	return nil
}

// unbindUnused closes sockets whose listener is gone or has moved. The caller holds mu.
func (m *Manager) unbindUnused() {
	for a, s := range m.sockets {
		o := s.owner.Load()
		l := m.active[o.Name]
		used := l != nil && l.bind
		if used {
			used = false
			for _, x := range l.addrs {
				used = used || x == a
			}
		}
		if !used {
			_ = s.ln.Close()
			delete(m.sockets, a)
		}
	}
}

func (m *Manager) accept(s *socket) {
	defer m.wg.Done()
	for {
		nc, err := s.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil && s.closing.Load() {
			_ = s.ln.Close()
			return
		}
		if err != nil {
			// Out of descriptors or the like: wait for some to come free.
			m.log.Warn("accept", "address", s.ln.Addr(), "err", err)
			select {
			case <-m.ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		m.wg.Add(1)
		go func() {
			defer m.wg.Done()
			stop := context.AfterFunc(m.ctx, func() { _ = nc.Close() })
			defer stop()
			m.serve(m.ctx, nc, s.owner.Load())
		}()
	}
}

// Bound returns the address of an open socket for a, which differs from a when a's port is 0.
func (m *Manager) Bound(a netip.AddrPort) (net.Addr, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.sockets[a]
	if !ok {
		return nil, false
	}
	return s.ln.Addr(), true
}

// Close closes every socket and waits until all connections have ended, which the manager's context brings about.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	for a, s := range m.sockets {
		_ = s.ln.Close()
		delete(m.sockets, a)
	}
	m.mu.Unlock()
	m.wg.Wait()
}
