package hcm

import (
	"encoding/binary"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// newGRPCStats counts gRPC calls and messages of the clusters they go to, and messages for Istio's metrics.
func newGRPCStats(m *Manager, name string, body *anypb.Any) (filter, error) {
	p := &grpcstatsv3.FilterConfig{}
	if err := body.UnmarshalTo(p); err != nil {
		return filter{}, err
	}
	const known = "emit_filter_state individual_method_stats_allowlist stats_for_all_methods enable_upstream_stats " +
		"replace_dots_in_grpc_service_name"
	if err := fields.Check(p, known); err != nil {
		return filter{}, err
	}
	g := &grpcStats{
		registry: m.env.Stats, all: p.GetStatsForAllMethods().GetValue(), upstream: p.GetEnableUpstreamStats(),
		noDots: p.GetReplaceDotsInGrpcServiceName(), methods: map[string]bool{},
	}
	for _, s := range p.GetIndividualMethodStatsAllowlist().GetServices() {
		for _, n := range s.GetMethodNames() {
			g.methods["/"+s.GetName()+"/"+n] = true
		}
	}
	m.grpcMessages = true
	return filter{
		name:    name,
		request: func(s *Stream) *reply { s.watchMessages(); return nil },
		done: func(s *Stream) {
			if s.messages != nil && s.cluster != nil {
				g.count(s)
			}
		},
	}, nil
}

type grpcStats struct {
	registry              *stats.Registry
	all, upstream, noDots bool
	methods               map[string]bool
	known                 sync.Map // grpcKey -> *grpcCounters
}

type grpcKey struct {
	cluster *cluster.Stats
	method  string
}

type grpcCounters struct {
	scope                                                 stats.Scope
	prefix                                                string
	total, success, failure, requestMessages, respMessage *stats.Counter
	codes                                                 [17]atomic.Pointer[stats.Counter]
	time                                                  *stats.Histogram
}

func (g *grpcStats) count(s *Stream) {
	k := grpcKey{cluster: s.cluster.Stats}
	if path, _, _ := strings.Cut(s.path, "?"); g.all || g.methods[path] {
		k.method = path
	}
	found, ok := g.known.Load(k)
	if !ok {
		found, _ = g.known.LoadOrStore(k, g.counters(k))
	}
	c := found.(*grpcCounters)
	c.requestMessages.Add(s.messages.in.count.Load())
	c.respMessage.Add(s.messages.out.count.Load())
	if c.time != nil && !s.upStart.IsZero() {
		c.time.Observe(float64(s.end.Sub(s.upStart)) / float64(time.Millisecond))
	}
	status := firstOf(s.respTrailer["Grpc-Status"])
	if status == "" {
		status = firstOf(s.respHeader["Grpc-Status"])
	}
	code, err := strconv.Atoi(status)
	if err != nil || code < 0 || code >= len(c.codes) {
		return
	}
	c.total.Inc()
	if code == 0 {
		c.success.Inc()
	} else {
		c.failure.Inc()
	}
	n := c.codes[code].Load()
	if n == nil {
		n = g.registry.Counter(c.scope, c.prefix+status)
		c.codes[code].Store(n)
	}
	n.Inc()
}

func (g *grpcStats) counters(k grpcKey) *grpcCounters {
	c := &grpcCounters{scope: k.cluster.Scope, prefix: "grpc."}
	if service, method, ok := strings.Cut(strings.TrimPrefix(k.method, "/"), "/"); ok {
		if g.noDots {
			service = strings.ReplaceAll(service, ".", "_")
		}
		c.prefix = "grpc." + service + "." + method + "."
	}
	of := func(n string) *stats.Counter { return g.registry.Counter(c.scope, c.prefix+n) }
	c.total, c.success, c.failure = of("total"), of("success"), of("failure")
	c.requestMessages, c.respMessage = of("request_message_count"), of("response_message_count")
	if g.upstream {
		c.time = g.registry.Histogram(c.scope, c.prefix+"upstream_rq_time")
	}
	return c
}

// watchMessages counts the messages of a gRPC call from here on.
func (s *Stream) watchMessages() {
	if s.messages == nil && s.m.grpcMessages && s.isGRPC() {
		s.messages = &messages{}
		s.received.frames = &s.messages.in
	}
}

// messages counts the messages of one call, and tells them from time to time.
type messages struct {
	in, out       frames
	every         time.Duration
	tell          func(in, out uint64)
	at            time.Time
	toldIn, toldO uint64
}

// report makes sent tell what is new when the last time was that long ago.
func (m *messages) report(every time.Duration, tell func(in, out uint64)) {
	m.every, m.tell, m.at = every, tell, time.Now()
}

// sent takes bytes of the response.
func (m *messages) sent(p []byte) {
	m.out.feed(p)
	if m.tell != nil && time.Since(m.at) >= m.every {
		m.at = time.Now()
		m.last(m.tell)
	}
}

// last tells what has not been told.
func (m *messages) last(tell func(in, out uint64)) {
	in, out := m.in.count.Load(), m.out.count.Load()
	tell(in-m.toldIn, out-m.toldO)
	m.toldIn, m.toldO = in, out
}

// frames counts length-prefixed messages in a stream of bytes.
type frames struct {
	count atomic.Uint64
	head  [5]byte
	have  int
	left  uint64
}

func (f *frames) feed(p []byte) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, uint64(len(p)))
			f.left -= n
			p = p[n:]
			continue
		}
		n := copy(f.head[f.have:], p)
		f.have += n
		p = p[n:]
		if f.have == len(f.head) {
			f.have = 0
			f.left = uint64(binary.BigEndian.Uint32(f.head[1:]))
			f.count.Add(1)
		}
	}
}
