package cluster

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/miekg/dns"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// zone is a resolver whose answers change.
type zone struct {
	mu    sync.Mutex
	ips   []netip.Addr
	ttl   time.Duration
	err   error
	asked int
}

func (z *zone) set(ttl time.Duration, err error, ips ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.ips, z.ttl, z.err = nil, ttl, err
	for _, ip := range ips {
		z.ips = append(z.ips, netip.MustParseAddr(ip))
	}
}

func (z *zone) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	ips, _, err := z.LookupTTL(ctx, network, host)
	return ips, err
}

func (z *zone) LookupTTL(context.Context, string, string) ([]netip.Addr, time.Duration, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked++
	return z.ips, z.ttl, z.err
}

func dnsCluster(kind clusterv3.Cluster_DiscoveryType) *clusterv3.Cluster {
	p := &clusterv3.Cluster{}
	// As text, for istiod still sends fields that are deprecated.
	if err := protojson.Unmarshal([]byte(`{"name":"dns","dnsRefreshRate":"60s","respectDnsTtl":true,"dnsLookupFamily":"V4_ONLY",
		"dnsFailureRefreshRate":{"baseInterval":"1s","maxInterval":"2s"}}`), p); err != nil {
		panic(err)
	}
	p.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: kind}
	p.LoadAssignment = assignment("dns", locality(0, lbEndpoint("a.example:80", 1, 0)))
	return p
}

func addresses(c *Cluster) (out []string) {
	for _, e := range c.Endpoints() {
		out = append(out, e.Address)
	}
	return out
}

func TestDNSRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{}
		z.set(10*time.Second, nil, "10.0.0.1")
		m := NewManager(t.Context(), tlsctx.NewStore(), stats.New(), z)
		p := dnsCluster(clusterv3.Cluster_STRICT_DNS)
		must(t, m.Apply(update(t, xds.ClusterType, nil, p)))
		synctest.Wait()
		want := func(when string, asked int, list ...string) {
			t.Helper()
			got := addresses(m.Get("dns"))
			if len(got) != len(list) || (len(got) > 0 && got[0] != list[0]) || z.asked != asked {
				t.Errorf("%s: %v after %d lookups, want %v after %d", when, got, z.asked, list, asked)
			}
		}
		want("at first", 1, "10.0.0.1:80")
		first := m.Get("dns").Endpoints()[0]
		z.set(20*time.Second, nil, "10.0.0.1", "10.0.0.2")
		time.Sleep(10*time.Second + 1)
		synctest.Wait()
		want("after the TTL", 2, "10.0.0.1:80", "10.0.0.2:80")
		if m.Get("dns").Endpoints()[0].state != first.state {
			t.Error("a host that stays keeps its connections")
		}
		z.set(0, errors.New("server misbehaving"))
		time.Sleep(20 * time.Second)
		synctest.Wait()
		want("a failed lookup changes nothing", 3, "10.0.0.1:80", "10.0.0.2:80")
		z.set(0, nil, "10.0.0.3")
		time.Sleep(time.Second + 1)
		synctest.Wait()
		want("tried again soon", 4, "10.0.0.3:80")
		// Another version of the cluster goes on with what is known, although nothing resolves now.
		z.set(0, errors.New("server misbehaving"))
		p = proto.CloneOf(p)
		p.ConnectTimeout = durationpb.New(3 * time.Second)
		must(t, m.Apply(update(t, xds.ClusterType, nil, p)))
		if got := addresses(m.Get("dns")); len(got) != 1 || got[0] != "10.0.0.3:80" {
			t.Errorf("a changed cluster begins with %v", got)
		}
		z.set(0, &net.DNSError{Err: "no such host", IsNotFound: true})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := addresses(m.Get("dns")); len(got) != 0 {
			t.Errorf("a name that is gone has %v", got)
		}
		m.Close()
	})
}

func TestLogicalDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{}
		z.set(0, nil, "10.0.0.1", "10.0.0.2")
		m := NewManager(t.Context(), tlsctx.NewStore(), stats.New(), z)
		must(t, m.Apply(update(t, xds.ClusterType, nil, dnsCluster(clusterv3.Cluster_LOGICAL_DNS))))
		synctest.Wait()
		e, err := m.Get("dns").Pick(Choice{})
		must(t, err)
		if e.Addr.String() != "10.0.0.1:80" || len(m.Get("dns").Endpoints()) != 1 || len(*e.addrs.Load()) != 1 {
			t.Errorf("one host at the first address, not %s", e.Addr)
		}
		z.set(0, nil, "10.0.0.3")
		time.Sleep(time.Minute + 1)
		synctest.Wait()
		n, err := m.Get("dns").Pick(Choice{})
		must(t, err)
		if n.Addr.String() != "10.0.0.3:80" || n.state != e.state || (*e.addrs.Load())[0] != "10.0.0.3:80" {
			t.Error("the host has moved and keeps its connections")
		}
		m.Close()
	})
}

// TestRace: a host with several addresses is reached at one that answers.
func TestRace(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = ln.Close() }()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	dead := gone.Addr().String()
	must(t, gone.Close())
	e := &Endpoint{Network: "tcp", state: newState()}
	e.addrs.Store(&[]string{dead, dead, ln.Addr().String()})
	c, err := dialHost(t.Context(), &net.Dialer{}, e)
	must(t, err)
	_ = c.Close()
	e.addrs.Store(&[]string{dead, dead})
	if _, err := dialHost(t.Context(), &net.Dialer{}, e); err == nil {
		t.Error("nobody is there")
	}
	if got := interleave([]string{"[::1]:1", "[::2]:1", "1.1.1.1:1", "1.1.1.2:1"}); got[1] != "1.1.1.1:1" || got[2] != "[::2]:1" {
		t.Errorf("families take turns: %v", got)
	}
}

// TestSystemResolver asks a name server that the cluster names, as istiod does for its own DNS proxy.
func TestSystemResolver(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	srv := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg)
		a.SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			for i, ttl := range []uint32{300, 7} {
				a.Answer = append(a.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: net.IPv4(10, 0, 0, byte(i+1)),
				})
			}
		}
		_ = w.WriteMsg(a)
	})}
	go func() { _ = srv.ActivateAndServe() }()
	defer func() { _ = srv.Shutdown() }()
	p := dnsCluster(clusterv3.Cluster_STRICT_DNS)
	port := pc.LocalAddr().(*net.UDPAddr).Port
	p.TypedDnsResolverConfig = &corev3.TypedExtensionConfig{}
	js := `{"name":"envoy.network.dns_resolver.cares","typedConfig":{
		"@type":"type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig","udpMaxQueries":100,
		"resolvers":[{"socketAddress":{"address":"127.0.0.1","portValue":` + strconv.Itoa(port) + `}}]}}`
	must(t, protojson.Unmarshal([]byte(js), p.TypedDnsResolverConfig))
	c, err := compile(p, tlsctx.NewStore(), stats.New())
	must(t, err)
	ips, ttl, err := lookupTTL(t.Context(), withServers(System{}, c.dns.servers), "ip4", "a.example.")
	must(t, err)
	if len(ips) != 2 || ttl != 7*time.Second {
		t.Errorf("%v for %v", ips, ttl)
	}
}
