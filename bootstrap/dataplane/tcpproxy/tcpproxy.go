// Package tcpproxy joins a client's connection with one to an endpoint of a cluster, byte by byte.
//
// It knows half-closed streams, idle timeouts, weighted clusters and tunnels through HTTP proxies. It does not know how
// their endpoints are chosen.
package tcpproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/hcm"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
)

// Proxy is the terminal filter. It implements network.Terminal.
type Proxy struct {
	clusters *cluster.Manager
	self     *peer.Info
	loggers  []hcm.Logger
	name     string
	cluster  string
	weighted []weight
	total    uint32
	idle     time.Duration
	max      time.Duration
	attempts int
	running  atomic.Int64 // connections
	bySource bool         // consistent hashing goes by the client's address
	tunnel   *tunnel      // nil to connect to the endpoint itself
}

type weight struct {
	name string
	n    uint32
}

var _ network.Terminal = (*Proxy)(nil)

const proxyFields = "stat_prefix cluster weighted_clusters idle_timeout max_downstream_connection_duration max_connect_attempts " +
	"access_log access_log_options hash_policy tunneling_config"

// Compile translates p. The error names the first field that is not honoured.
func Compile(p *tcpv3.TcpProxy, clusters *cluster.Manager, self *peer.Info, loggers []hcm.Logger) (*Proxy, error) {
	if err := fields.Check(p, proxyFields); err != nil {
		return nil, err
	}
	out := &Proxy{clusters: clusters, self: self, loggers: loggers, name: p.GetStatPrefix(), idle: time.Hour, attempts: 1}
	if d := p.GetIdleTimeout(); d != nil {
		out.idle = d.AsDuration()
	}
	out.max = p.GetMaxDownstreamConnectionDuration().AsDuration()
	if n := p.GetMaxConnectAttempts(); n != nil {
		out.attempts = int(n.GetValue())
	}
	for _, h := range p.GetHashPolicy() {
		if _, ok := h.GetPolicySpecifier().(*typev3.HashPolicy_SourceIp_); !ok {
			return nil, fields.Unsupported(h, fmt.Sprintf("policy_specifier (%T)", h.GetPolicySpecifier()), "")
		}
		out.bySource = true
	}
	var err error
	if out.tunnel, err = compileTunnel(p.GetTunnelingConfig()); err != nil {
		return nil, err
	}
	switch c := p.GetClusterSpecifier().(type) {
	case *tcpv3.TcpProxy_Cluster:
		out.cluster = c.Cluster
	case *tcpv3.TcpProxy_WeightedClusters:
		for _, w := range c.WeightedClusters.GetClusters() {
			if err := fields.Check(w, "name weight"); err != nil {
				return nil, err
			}
			out.weighted = append(out.weighted, weight{w.GetName(), w.GetWeight()})
			out.total += w.GetWeight()
		}
		if out.total == 0 {
			return nil, errors.New("weighted_clusters: the sum of weights is 0")
		}
	default:
		return nil, fields.Unsupported(p, fmt.Sprintf("cluster_specifier (%T)", c), "")
	}
	return out, nil
}

func (p *Proxy) choose() string {
	if len(p.weighted) == 0 {
		return p.cluster
	}
	n := rand.Uint32N(p.total)
	for _, w := range p.weighted {
		if n < w.n {
			return w.name
		}
		n -= w.n
	}
	return ""
}

// Serve implements network.Terminal.
func (p *Proxy) Serve(ctx context.Context, c *network.Conn) {
	p.running.Add(1)
	defer p.running.Add(-1)
	e := hcm.ConnEntry(c)
	r := &Result{Cluster: p.choose(), Entry: e, peer: &atomic.Pointer[peer.Info]{}}
	e.Upstream.Cluster = r.Cluster
	e.FilterState = func(key string) (any, bool) {
		down, _ := c.Peer().(*peer.Info)
		if v, ok := hcm.PeerState(key, down, r.Peer()); ok {
			return v, true
		}
		v, ok := c.FilterState(key)
		return v, ok
	}
	defer func() {
		e.End = time.Now()
		e.BytesReceived, e.BytesSent = c.Received.Load(), c.Sent.Load()
		if why := c.Terminated(); why != "" {
			e.ConnectionTerminationDetails = why
			if strings.HasPrefix(why, "ext_authz") {
				e.Flags |= accesslog.UnauthorizedExternalService
			}
		}
		for _, l := range p.loggers {
			l.Log(e)
		}
	}()
	r.publish(c)
	r.Flags = p.connectAndPipe(ctx, c, e, r)
	e.Flags |= r.Flags
	r.publish(c)
}

// Busy reports whether connections are open.
func (p *Proxy) Busy() bool { return p.running.Load() > 0 }

// Refused logs a connection that a filter before this one has refused.
func (p *Proxy) Refused(c *network.Conn, why error) {
	e := hcm.ConnEntry(c)
	e.Upstream.Cluster, e.ConnectionTerminationDetails, e.End = p.choose(), why.Error(), time.Now()
	for _, l := range p.loggers {
		l.Log(e)
	}
}

// dynamicHost is the filter state in which a filter before this one leaves the host to go to.
const dynamicHost = "envoy.upstream.dynamic_host"

// Result is what a connection tells the statistics filter; the latest is found under network.Conn.Result. A Result that
// was published changes no more, but for what the peer tells.
type Result struct {
	Cluster  string
	Service  any // the cluster's "istio" services metadata
	Host     *cluster.Endpoint
	Flags    accesslog.Flags
	peer     *atomic.Pointer[peer.Info]
	PeerID   string // first URI SAN of the upstream's certificate
	Identity string // first URI SAN of the certificate shown to the upstream
	MTLS     bool
	Entry    *accesslog.Entry // the log entry as it was then
}

// publish makes a copy of r the connection's result.
func (r *Result) publish(c *network.Conn) {
	out := *r
	entry := *r.Entry
	out.Entry = &entry
	c.SetResult(&out)
}

// Peer returns the upstream's workload where it has told, else nil.
func (r *Result) Peer() *peer.Info {
	if r.peer == nil {
		return nil
	}
	return r.peer.Load()
}

func (p *Proxy) connectAndPipe(ctx context.Context, c *network.Conn, e *accesslog.Entry, r *Result) accesslog.Flags {
	cl := p.clusters.Get(r.Cluster)
	if cl == nil {
		return accesslog.NoClusterFound
	}
	r.Service, _ = cl.Metadata("istio", "services")
	e.Upstream.AltStatName = cl.Proto.GetAltStatName()
	cl.Await(ctx)
	var up io.ReadWriteCloser
	for n := 0; up == nil; n++ {
		choice := cluster.Choice{Original: c.Local}
		if cl.Kind == cluster.Dynamic {
			named, _ := c.FilterState(dynamicHost)
			var err error
			if choice.Host, err = cl.Resolve(ctx, named); err != nil {
				return accesslog.DNSResolutionFailed
			}
		}
		if p.bySource && c.Remote.IsValid() {
			choice.Hash, choice.Hashed = xxhash.Sum64String(c.Remote.Addr().String()), true
		}
		host, err := cl.Pick(choice)
		if err != nil {
			return accesslog.NoHealthyUpstream
		}
		e.Upstream.Host, e.Upstream.HostName = host.Addr, host.Hostname
		if up, err = p.connect(ctx, cl, host, c, e); err == nil {
			host.Active.Add(1)
			defer host.Active.Add(-1)
			host.Requests.Add(1)
			r.Host = host
			r.Identity = cl.Identity(host)
			cl.Reached(host, true)
			break
		}
		host.Errors.Add(1)
		if errors.Is(err, cluster.ErrOverflow) {
			return accesslog.UpstreamOverflow
		}
		if ctx.Err() == nil {
			cl.Unanswered(host, http.StatusServiceUnavailable)
		}
		e.Upstream.TransportFailureReason = err.Error()
		if n+1 >= p.attempts {
			flags := accesslog.UpstreamConnectionFailure
			if p.attempts > 1 {
				flags |= accesslog.UpstreamRetryLimitExceeded
			}
			return flags
		}
	}
	defer func() { _ = up.Close() }()
	if tc, ok := up.(*tls.Conn); ok {
		st := tc.ConnectionState()
		e.Upstream.TLS = &accesslog.TLS{State: &st}
		if len(st.PeerCertificates) > 0 && len(st.PeerCertificates[0].URIs) > 0 {
			r.MTLS, r.PeerID = true, st.PeerCertificates[0].URIs[0].String()
		}
		if cl.Exchanges() && st.NegotiatedProtocol == peer.ALPN {
			x, err := peer.Exchange(tc, p.self, r.peer.Store)
			if err != nil {
				return accesslog.UpstreamConnectionFailure
			}
			up = x
		}
	}
	r.publish(c)
	return p.pipe(ctx, c, up, e)
}

// pipe copies both ways until both ends are done, one fails, or nothing moves for the idle timeout.
func (p *Proxy) pipe(ctx context.Context, c *network.Conn, up io.ReadWriteCloser, e *accesslog.Entry) accesslog.Flags {
	down := c.Conn
	closeBoth := func() { _ = down.Close(); _ = up.Close() }
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	if p.max > 0 {
		t := time.AfterFunc(p.max, closeBoth)
		defer t.Stop()
	}
	var last atomic.Int64
	last.Store(time.Now().UnixNano())
	if p.idle > 0 {
		stopIdle := watchIdle(&last, p.idle, func() {
			e.ConnectionTerminationDetails = "idle timeout"
			closeBoth()
		})
		defer stopIdle()
	}
	done := make(chan error, 1)
	go func() {
		done <- copyHalf(up, down, &c.Received, &last)
	}()
	err := copyHalf(down, up, &c.Sent, &last)
	if err != nil {
		closeBoth()
	}
	if other := <-done; other != nil {
		closeBoth()
	}
	return 0
}

// A connection that is quiet or says little holds a small buffer; a large one is lent to those that fill it.
const smallBuffer = 2 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// copyHalf copies until src ends, then ends dst's stream. An error breaks the whole connection.
func copyHalf(dst, src io.ReadWriteCloser, count *atomic.Uint64, last *atomic.Int64) error {
	small := make([]byte, smallBuffer)
	buf := small
	var large *[]byte
	resize := func(n int) {
		switch {
		case large == nil && n == len(small):
			large = buffers.Get().(*[]byte)
			buf = *large
		case large != nil && n < len(small):
			buffers.Put(large)
			large, buf = nil, small
		}
	}
	defer resize(0)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			count.Add(uint64(n))
			last.Store(time.Now().UnixNano())
			if _, werr := dst.Write(buf[:n]); werr != nil {
				_ = src.Close()
				return werr
			}
			resize(n)
		}
		if errors.Is(err, io.EOF) {
			if cw, ok := dst.(interface{ CloseWrite() error }); ok {
				return cw.CloseWrite()
			}
			return dst.Close()
		}
		if err != nil {
			_ = dst.Close()
			return err
		}
	}
}

// watchIdle calls expired once nothing has moved for d. The result stops the watch.
func watchIdle(last *atomic.Int64, d time.Duration, expired func()) func() {
	var mu sync.Mutex
	stopped := false
	var t *time.Timer
	check := func() {
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return
		}
		left := d - time.Since(time.Unix(0, last.Load()))
		if left <= 0 {
			stopped = true
			go expired()
			return
		}
		t.Reset(left)
	}
	mu.Lock()
	t = time.AfterFunc(d, check)
	mu.Unlock()
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		t.Stop()
	}
}
