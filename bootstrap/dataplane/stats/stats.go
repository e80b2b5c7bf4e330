// Package stats keeps the proxy's counters, gauges and histograms under Envoy's names and renders them as Envoy's
// admin endpoint does: plain text, and the Prometheus text format.
//
// It knows names, labels and numbers. It does not know what they mean, nor when they are to be counted.
package stats

import (
	"sort"
	"strings"
	"sync"
	"sync/atomic"
)

// Counter is a number that only grows.
type Counter struct{ v atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.v.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.v.Add(n) }

// Value returns the current count.
func (c *Counter) Value() uint64 { return c.v.Load() }

// Gauge is a number that goes up and down.
type Gauge struct {
	v    atomic.Int64
	used atomic.Bool
}

// Inc adds one.
func (g *Gauge) Inc() { g.Add(1) }

// Dec subtracts one.
func (g *Gauge) Dec() { g.Add(-1) }

// Add adds n, which may be negative.
func (g *Gauge) Add(n int64) { g.used.Store(true); g.v.Add(n) }

// Set replaces the value.
func (g *Gauge) Set(n int64) { g.used.Store(true); g.v.Store(n) }

// Value returns the current value.
func (g *Gauge) Value() int64 { return g.v.Load() }

// Text is a value that is no number: a text readout.
type Text struct{ v atomic.Pointer[string] }

// Set replaces the text.
func (t *Text) Set(s string) { t.v.Store(&s) }

// Value returns the text, empty before the first Set.
func (t *Text) Value() string {
	if s := t.v.Load(); s != nil {
		return *s
	}
	return ""
}

// Scope names a group of stats: Name is the prefix of the full dotted name ("cluster.outbound|80||a"), Family the
// prefix of the Prometheus name ("envoy_cluster") and Labels the rendered Prometheus labels (cluster_name="...").
type Scope struct{ Name, Family, Labels string }

// Registry owns all stats of one proxy. The zero value is not usable; call New.
type Registry struct {
	mu         sync.RWMutex
	counters   map[string]*namedCounter
	gauges     map[string]*namedGauge
	histograms map[string]*namedHistogram
	texts      map[string]*Text
	vectors    sync.Map // string -> *Vec
	gaugeVecs  sync.Map // string -> *GaugeVec
	tables     sync.Map // string -> *HistogramVec
	rotation   rotation
}

type (
	namedCounter struct {
		Counter
		prom, labels string
	}
	namedGauge struct {
		Gauge
		prom, labels string
	}
	namedHistogram struct {
		Histogram
		prom, labels string
	}
)

// New returns an empty registry.
func New() *Registry {
	return &Registry{
		counters:   map[string]*namedCounter{},
		gauges:     map[string]*namedGauge{},
		histograms: map[string]*namedHistogram{},
		texts:      map[string]*Text{},
	}
}

// Counter returns the counter of that name in s, making it when it is new.
func (r *Registry) Counter(s Scope, name string) *Counter {
	full := s.Name + "." + name
	r.mu.RLock()
	c, ok := r.counters[full]
	r.mu.RUnlock()
	if ok {
		return &c.Counter
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok = r.counters[full]; !ok {
		c = &namedCounter{prom: promName(s.Family + "_" + name), labels: s.Labels}
		r.counters[full] = c
	}
	return &c.Counter
}

// Gauge returns the gauge of that name in s, making it when it is new.
func (r *Registry) Gauge(s Scope, name string) *Gauge {
	full := s.Name + "." + name
	r.mu.RLock()
	g, ok := r.gauges[full]
	r.mu.RUnlock()
	if ok {
		return &g.Gauge
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if g, ok = r.gauges[full]; !ok {
		g = &namedGauge{prom: promName(s.Family + "_" + name), labels: s.Labels}
		r.gauges[full] = g
	}
	return &g.Gauge
}

// Histogram returns the histogram of that name in s, making it when it is new.
func (r *Registry) Histogram(s Scope, name string) *Histogram {
	full := s.Name + "." + name
	r.mu.Lock()
	defer r.mu.Unlock()
	h, ok := r.histograms[full]
	if !ok {
		h = &namedHistogram{prom: promName(s.Family + "_" + name), labels: s.Labels}
		r.histograms[full] = h
	}
	return &h.Histogram
}

// Text returns the text readout of that name in s, making it when it is new.
func (r *Registry) Text(s Scope, name string) *Text {
	full := s.Name + "." + name
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.texts[full]
	if !ok {
		t = &Text{}
		r.texts[full] = t
	}
	return t
}

// Reset sets every counter and histogram back to zero.
func (r *Registry) Reset() {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, c := range r.counters {
		c.v.Store(0)
	}
	for _, h := range r.histograms {
		h.reset()
	}
	r.vectors.Range(func(_, v any) bool {
		v.(*Vec).each(func(_ string, c *Counter) { c.v.Store(0) })
		return true
	})
	r.tables.Range(func(_, v any) bool {
		v.(*HistogramVec).each(func(_ string, h *Histogram) { h.reset() })
		return true
	})
}

// Drop forgets every stat whose full name starts with prefix, so that removed clusters do not pile up.
func (r *Registry) Drop(prefix string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dropPrefix(r.counters, prefix)
	dropPrefix(r.gauges, prefix)
	dropPrefix(r.histograms, prefix)
	dropPrefix(r.texts, prefix)
}

func dropPrefix[V any](m map[string]V, prefix string) {
	for k := range m {
		if strings.HasPrefix(k, prefix) {
			delete(m, k)
		}
	}
}

func promName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_':
			return r
		}
		return '_'
	}, s)
}

// LabelName makes a legal Prometheus label name of s.
func LabelName(s string) string { return promName(s) }

// Label renders one Prometheus label pair.
func Label(name, value string) string { return name + `="` + escape(value) + `"` }

func escape(v string) string {
	if !strings.ContainsAny(v, "\\\"\n") {
		return v
	}
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(v)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
