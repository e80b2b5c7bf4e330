package cluster

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// Choice carries what load balancing may look at.
type Choice struct {
	Original netip.AddrPort       // where the client wanted to go
	Avoid    func(*Endpoint) bool // hosts tried already; honoured where another exists
	Attempts int                  // how often to look for a host that Avoid lets pass
	// AvoidPriorities has a bit for each priority that was tried already; honoured while another has healthy hosts.
	AvoidPriorities uint64
	Host            string // what Resolve gave, for clusters whose hosts are named by requests
	Hash            uint64 // for consistent hashing, where Hashed
	Hashed          bool
	// Sticky is the address of a host that has the session already. It is chosen whatever the balancing says, as long
	// as its health status permits. When Strict, no other host is chosen instead.
	Sticky string
	Strict bool
}

// Pick chooses an endpoint, or returns ErrNoEndpoint or ErrNoOriginal.
func (c *Cluster) Pick(ch Choice) (*Endpoint, error) {
	if c.Kind == OriginalDst {
		return c.original(ch.Original)
	}
	if c.Kind == Dynamic {
		return c.named(ch.Host)
	}
	s := c.set.Load()
	if s == nil {
		c.Stats.NoEndpoint.Inc()
		return nil, ErrNoEndpoint
	}
	if ch.Sticky != "" {
		if e := s.byAddr[ch.Sticky]; e != nil && c.balance.override&(1<<uint32(e.Status())) != 0 {
			return e, nil
		}
		if ch.Strict {
			return nil, ErrNoEndpoint
		}
	}
	g := s.other(ch.AvoidPriorities)
	if g == nil {
		g = s.choose(ch.Hash, ch.Hashed && c.balance.hashes())
	}
	if g == nil || g.picker == nil {
		c.Stats.NoEndpoint.Inc()
		return nil, ErrNoEndpoint
	}
	if g.panic {
		c.Stats.Panic.Inc()
	}
	if !ch.Hashed {
		ch.Hash = rand.Uint64()
	}
	e := g.picker.pick(ch.Hash, 0)
	for n := 1; n <= ch.Attempts; n++ {
		if ch.Avoid == nil || !ch.Avoid(e) {
			break
		}
		e = g.picker.pick(ch.Hash, n)
	}
	return e, nil
}

func (b *balance) hashes() bool { return b.policy == ringHash || b.policy == maglev }

// Hashes reports whether a Choice's hash matters.
func (c *Cluster) Hashes() bool { return c.balance.hashes() }

// rebuild makes the set anew after hosts' health or weights have changed.
func (c *Cluster) rebuild() {
	c.update.Lock()
	defer c.update.Unlock()
	if s := c.set.Load(); s != nil && !c.closed {
		c.publish(newEndpointSet(s.all, s.from, &c.balance))
	}
}

// publish puts s in force. The caller holds update.
func (c *Cluster) publish(s *endpointSet) {
	c.set.Store(s)
	healthy, degraded := 0, 0
	for _, e := range s.all {
		switch {
		case !e.Healthy():
		case e.Degraded():
			degraded++
		default:
			healthy++
		}
	}
	c.Stats.Members.Set(int64(len(s.all)))
	c.Stats.Healthy.Set(int64(healthy))
	c.Stats.Degraded.Set(int64(degraded))
	// Hosts that start slowly are weighed anew at each pick; at the end the plain way of picking takes over.
	if c.warm != nil {
		c.warm.Stop()
		c.warm = nil
	}
	if end := c.balance.slow.until(s.all, time.Now()); !end.IsZero() {
		c.warm = time.AfterFunc(time.Until(end), c.rebuild)
	}
}
