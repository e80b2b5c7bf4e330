package cluster

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/protobuf/proto"
)

// Resolver looks up host names; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// TTLResolver is a Resolver that knows how long an answer holds; 0 means that it does not know.
type TTLResolver interface {
	Resolver
	LookupTTL(ctx context.Context, network, host string) ([]netip.Addr, time.Duration, error)
}

// System resolves names as the pod's resolv.conf and hosts file say. Servers, where there are any, are asked instead of
// those in resolv.conf.
type System struct{ Servers []string }

var _ TTLResolver = System{}

// anyBody is what is needed of *anypb.Any.
type anyBody interface {
	GetTypeUrl() string
	UnmarshalTo(proto.Message) error
}

func withServers(r Resolver, servers []string) Resolver {
	if _, ok := r.(System); ok {
		return System{servers}
	}
	return r
}

func lookupTTL(ctx context.Context, r Resolver, network, host string) ([]netip.Addr, time.Duration, error) {
	if t, ok := r.(TTLResolver); ok {
		return t.LookupTTL(ctx, network, host)
	}
	ips, err := r.LookupNetIP(ctx, network, host)
	return ips, 0, err
}

// LookupNetIP implements Resolver.
func (s System) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	ips, _, err := s.LookupTTL(ctx, network, host)
	return ips, err
}

// LookupTTL implements TTLResolver: Go's resolver asks, and the answers are read on their way to it.
func (s System) LookupTTL(ctx context.Context, network, host string) ([]netip.Addr, time.Duration, error) {
	seen := &shortest{}
	turn := 0
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if len(s.Servers) > 0 {
			seen.mu.Lock()
			address = s.Servers[turn%len(s.Servers)]
			turn++
			seen.mu.Unlock()
		}
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if u, ok := c.(*net.UDPConn); ok {
			return &packetTap{u, seen}, nil
		}
		return &streamTap{Conn: c, seen: seen}, nil
	}}
	ips, err := r.LookupNetIP(ctx, network, host)
	seen.mu.Lock()
	defer seen.mu.Unlock()
	return ips, time.Duration(seen.ttl) * time.Second, err
}

// shortest is the shortest TTL of the addresses in answers.
type shortest struct {
	mu  sync.Mutex
	ttl uint32
	any bool
}

func (s *shortest) message(b []byte) {
	var p dnsmessage.Parser
	if h, err := p.Start(b); err != nil || !h.Response || p.SkipAllQuestions() != nil {
		return
	}
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			return
		}
		switch h.Type {
		case dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeCNAME:
			s.mu.Lock()
			if !s.any || h.TTL < s.ttl {
				s.ttl, s.any = h.TTL, true
			}
			s.mu.Unlock()
		}
		if p.SkipAnswer() != nil {
			return
		}
	}
}

// packetTap is a UDP connection; Go's resolver tells it by its being a net.PacketConn.
type packetTap struct {
	*net.UDPConn
	seen *shortest
}

func (t *packetTap) Read(p []byte) (int, error) {
	n, err := t.UDPConn.Read(p)
	t.seen.message(p[:n])
	return n, err
}

// streamTap is a TCP connection, where each message follows its length.
type streamTap struct {
	net.Conn
	seen *shortest
	buf  []byte
}

func (t *streamTap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.buf = append(t.buf, p[:n]...)
	for len(t.buf) >= 2 {
		l := 2 + int(binary.BigEndian.Uint16(t.buf))
		if len(t.buf) < l {
			break
		}
		t.seen.message(t.buf[2:l])
		t.buf = t.buf[l:]
	}
	return n, err
}
