// Package metrics counts Istio's standard metrics as the filter istio.stats does: their names and labels, what
// PluginConfig takes away, changes and adds, and the custom metrics that it defines.
//
// It knows workloads, labels and series. It knows no request and no connection: filters hand it Facts, and an access log
// entry where expressions need one. Series are found by their facts, so that a request whose facts were seen before
// costs one look-up.
package metrics

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	statsv1 "istio.io/api/envoy/extensions/stats"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// Metric is one of the standard metrics.
type Metric int

// The standard metrics.
const (
	Requests Metric = iota
	Duration
	RequestBytes
	ResponseBytes
	RequestMessages
	ResponseMessages
	Opened
	Closed
	Sent
	Received
	count
)

// names are the metrics' names without the prefix istio_, as PluginConfig has them.
var names = [count]string{
	"requests_total", "request_duration_milliseconds", "request_bytes", "response_bytes", "request_messages_total",
	"response_messages_total", "tcp_connections_opened_total", "tcp_connections_closed_total", "tcp_sent_bytes_total",
	"tcp_received_bytes_total",
}

// custom is a metric that PluginConfig defines.
type custom struct {
	name  string
	value int // index of the expression
	kind  statsv1.MetricType
	tags  tagRules
}

// tagRules change the labels of one metric. A standard label that is overridden keeps its place.
type tagRules struct {
	override map[string]int // index of the expression, removed for none
	add      []addition
}

type addition struct {
	tag  string
	expr int
}

const removed = -1

// Config is a compiled PluginConfig.
type Config struct {
	// HostFallback says whether the host header names the destination where the configuration does not.
	HostFallback bool
	// Interval is the time between two reports on a connection that lasts; 0 reports at its end only.
	Interval time.Duration

	self     *peer.Info
	registry *stats.Registry
	dropped  [count]bool
	rules    [count]tagRules
	exprs    []*accesslog.Expression
	customs  []custom

	known  atomic.Pointer[map[key]*Series]
	mu     sync.Mutex // for writing known
	ofTime atomic.Uint64
}

const (
	configFields = "debug max_peer_cache_size stat_prefix field_separator value_separator disable_host_header_fallback " +
		"tcp_reporting_duration metrics definitions rotation_interval graceful_deletion_interval"
	defaultInterval = 5 * time.Second
	defaultGrace    = 5 * time.Minute
)

// Compile translates p. The deprecated fields that today's filter does not look at have no effect here either. Errors
// name the field or the expression that is not honoured.
func Compile(p *statsv1.PluginConfig, self *peer.Info, reg *stats.Registry) (*Config, error) {
	if err := fields.Check(p, configFields); err != nil {
		return nil, err
	}
	c := &Config{HostFallback: !p.GetDisableHostHeaderFallback(), Interval: defaultInterval, self: self, registry: reg}
	if d := p.GetTcpReportingDuration(); d != nil {
		c.Interval = d.AsDuration()
	}
	for _, d := range p.GetDefinitions() {
		if slices.Contains(names[:], d.GetName()) {
			continue // as Istio: standard metrics are not redefined
		}
		x, err := c.expression(d.GetValue())
		if err != nil {
			return nil, fmt.Errorf("definition %q: %w", d.GetName(), err)
		}
		c.customs = append(c.customs, custom{name: "istio_" + d.GetName(), value: x, kind: d.GetType()})
	}
	for _, m := range p.GetMetrics() {
		if err := c.setMetric(m); err != nil {
			return nil, fmt.Errorf("metric %q: %w", m.GetName(), err)
		}
	}
	if every := p.GetRotationInterval().AsDuration(); every > 0 {
		grace := defaultGrace
		if g := p.GetGracefulDeletionInterval(); g != nil {
			grace = g.AsDuration()
		}
		reg.Rotate(every, grace)
	}
	c.known.Store(&map[key]*Series{})
	reg.GaugeVec("istio_build").With(stats.Label("component", "proxy") + "," + stats.Label("tag", orUnknown(self.Release))).Set(1)
	return c, nil
}

func (c *Config) setMetric(m *statsv1.MetricConfig) error {
	if err := fields.Check(m, "dimensions name tags_to_remove drop"); err != nil {
		return err
	}
	at := slices.Index(names[:], m.GetName())
	if m.GetDrop() {
		if at >= 0 {
			c.dropped[at] = true
		}
		return nil
	}
	var chosen []*tagRules
	for i := range c.rules {
		if m.GetName() == "" || i == at {
			chosen = append(chosen, &c.rules[i])
		}
	}
	for _, tag := range m.GetTagsToRemove() {
		for _, r := range chosen {
			r.set(tag, removed)
		}
	}
	for _, tag := range slices.Sorted(maps.Keys(m.GetDimensions())) {
		x, err := c.expression(m.GetDimensions()[tag])
		if err != nil {
			return fmt.Errorf("dimension %q: %w", tag, err)
		}
		for _, r := range chosen {
			r.set(tag, x)
		}
		for i := range c.customs {
			if m.GetName() == "" || "istio_"+m.GetName() == c.customs[i].name {
				c.customs[i].tags.add = append(c.customs[i].tags.add, addition{tag, x})
			}
		}
	}
	return nil
}

// set overrides a standard label, or adds one of another name. Labels that are not standard cannot be removed.
func (r *tagRules) set(tag string, expr int) {
	switch {
	case slices.Contains(standard, tag):
		if r.override == nil {
			r.override = map[string]int{}
		}
		r.override[tag] = expr
	case expr != removed:
		r.add = append(r.add, addition{tag, expr})
	}
}

// expression compiles text once, however often it is used, and returns its index.
func (c *Config) expression(text string) (int, error) {
	x, err := accesslog.CompileExpression(text)
	if err != nil {
		return 0, err
	}
	c.exprs = append(c.exprs, x)
	return len(c.exprs) - 1, nil
}

// Facts are what the standard labels are made of. Peer must be the same pointer for the same workload (peer.Cache), or
// the look-up of series is in vain.
type Facts struct {
	Server                        bool // reported by the destination
	Peer                          *peer.Info
	PeerPrincipal, LocalPrincipal string
	Service                       peer.Service // of the destination, empty parts unknown
	Protocol                      string       // "http", "grpc" or "tcp"
	Code                          int          // HTTP only
	GRPCStatus                    string
	Flags                         accesslog.Flags
}

// key finds series: the facts and the values of all expressions.
type key struct {
	Facts
	values string
}

// Series are the metrics of one set of facts.
type Series struct {
	c          *Config
	facts      Facts
	values     []string
	counters   [count]atomic.Pointer[stats.Counter]
	histograms [count]atomic.Pointer[stats.Histogram]
}

// maxKnown bounds the series that are remembered; those of the registry are not bounded, as in Envoy.
const maxKnown = 4096

// Series finds the series of f. entry is called only where the configuration has expressions.
func (c *Config) Series(f Facts, entry func() *accesslog.Entry) *Series {
	k := key{Facts: f}
	var values []string
	if len(c.exprs) > 0 {
		e := entry()
		values = make([]string, len(c.exprs))
		for i, x := range c.exprs {
			v, ok := x.Text(e)
			if !ok {
				v = "unknown"
			}
			values[i] = v
		}
		k.values = strings.Join(values, "\x00")
	}
	if now := c.registry.Generation(); c.ofTime.Load() != now {
		c.mu.Lock()
		c.ofTime.Store(now)
		c.known.Store(&map[key]*Series{})
		c.mu.Unlock()
	}
	if s, ok := (*c.known.Load())[k]; ok {
		return s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := *c.known.Load()
	if s, ok := old[k]; ok {
		return s
	}
	next := map[key]*Series{}
	if len(old) < maxKnown {
		next = maps.Clone(old)
	}
	s := &Series{c: c, facts: f, values: values}
	next[k] = s
	c.known.Store(&next)
	return s
}

// Add counts n for a metric that is a counter.
func (s *Series) Add(m Metric, n uint64) {
	if s.c.dropped[m] {
		return
	}
	c := s.counters[m].Load()
	if c == nil {
		c = s.c.registry.Vec("istio_" + names[m]).With(s.labels(m))
		s.counters[m].Store(c)
	}
	c.Add(n)
}

// Observe records v for a metric that is a histogram.
func (s *Series) Observe(m Metric, v float64) {
	if s.c.dropped[m] {
		return
	}
	h := s.histograms[m].Load()
	if h == nil {
		h = s.c.registry.HistogramVec("istio_" + names[m]).With(s.labels(m))
		s.histograms[m].Store(h)
	}
	h.Observe(v)
}

// Custom records the metrics that the configuration defines, at the end of a request or connection. entry is called
// only where there are such.
func (s *Series) Custom(entry func() *accesslog.Entry) {
	if len(s.c.customs) == 0 {
		return
	}
	e := entry()
	for i := range s.c.customs {
		m := &s.c.customs[i]
		text, _ := s.c.exprs[m.value].Text(e)
		n, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			n = 0
		}
		var b strings.Builder
		for _, a := range m.tags.add {
			appendLabel(&b, a.tag, s.values[a.expr])
		}
		switch m.kind {
		case statsv1.MetricType_GAUGE:
			s.c.registry.GaugeVec(m.name).With(b.String()).Set(int64(n))
		case statsv1.MetricType_HISTOGRAM:
			s.c.registry.HistogramVec(m.name).With(b.String()).Observe(float64(n))
		default:
			s.c.registry.Vec(m.name).With(b.String()).Add(n)
		}
	}
}
