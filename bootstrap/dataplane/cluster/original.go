package cluster

import (
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// defaultOriginalHeader is where a client may say what the original destination is, when the cluster allows it.
const defaultOriginalHeader = "x-envoy-original-dst-host"

func (c *Cluster) setOriginal(p *clusterv3.Cluster) error {
	o := p.GetOriginalDstLbConfig()
	if err := fields.Check(o, "use_http_header http_header_name upstream_port_override"); err != nil {
		return err
	}
	if o.GetUseHttpHeader() {
		c.origHeader = defaultOriginalHeader
		if n := o.GetHttpHeaderName(); n != "" {
			c.origHeader = n
		}
	}
	if v := o.GetUpstreamPortOverride(); v != nil {
		c.origPort = uint16(v.GetValue())
	}
	c.origIdle = 5 * time.Second
	if d := p.GetCleanupInterval(); d != nil {
		c.origIdle = d.AsDuration()
	}
	return nil
}

// OriginalHeader names the request header (lower case) that may hold the original destination, "" for none.
func (c *Cluster) OriginalHeader() string { return c.origHeader }

// originalIdle is how long an unused original destination is remembered at least.
const originalIdle = time.Minute

func (c *Cluster) original(dst netip.AddrPort) (*Endpoint, error) {
	if !dst.IsValid() {
		return nil, ErrNoOriginal
	}
	if c.origPort != 0 {
		dst = netip.AddrPortFrom(dst.Addr(), c.origPort)
	}
	now := time.Now().UnixNano()
	if v, ok := c.orig.Load(dst); ok {
		e := v.(*Endpoint)
		e.lastUsed.Store(now)
		return e, nil
	}
	sock, err := c.socketFor(nil)
	if err != nil {
		return nil, err
	}
	e := &Endpoint{Network: "tcp", Address: dst.String(), Addr: dst, Weight: 1, socket: sock, state: newState()}
	e.lastUsed.Store(now)
	if v, loaded := c.orig.LoadOrStore(dst, e); loaded {
		return v.(*Endpoint), nil
	}
	c.forgetOriginals(now)
	return e, nil
}

// forgetOriginals drops destinations that nobody has asked for of late, at most once a cleanup interval.
func (c *Cluster) forgetOriginals(now int64) {
	last := c.origSwept.Load()
	if now-last < int64(c.origIdle) || !c.origSwept.CompareAndSwap(last, now) {
		return
	}
	c.orig.Range(func(k, v any) bool {
		e := v.(*Endpoint)
		if e.Active.Load() == 0 && e.Conns.Load() == 0 && now-e.lastUsed.Load() > int64(max(originalIdle, c.origIdle)) {
			c.orig.Delete(k)
			e.closePools()
		}
		return true
	})
}
