package stats

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"regexp"
	"sort"
	"strings"
)

// Kind is a kind of stats; they can be combined.
type Kind int

// The kinds.
const (
	Counters Kind = 1 << iota
	Gauges
	Histograms
	Texts
	All = Counters | Gauges | Histograms | Texts
)

// Filter chooses which stats are shown. Match may be nil; Kinds 0 is All.
type Filter struct {
	UsedOnly bool
	Match    *regexp.Regexp
	Kinds    Kind
}

func (f Filter) keep(name string, used bool) bool {
	return (used || !f.UsedOnly) && (f.Match == nil || f.Match.MatchString(name))
}

func (f Filter) wants(k Kind) bool { return f.Kinds == 0 || f.Kinds&k != 0 }

// Buckets says how histograms are written as text.
type Buckets string

// The ways to write histograms.
const (
	Summary    Buckets = "" // quantiles
	Cumulative Buckets = "cumulative"
	Disjoint   Buckets = "disjoint"
)

// Value is one number under its dotted name.
type Value struct {
	Name  string `json:"name"`
	Value int64  `json:"value"`
}

// Values returns counters and gauges by name.
func (r *Registry) Values(f Filter) []Value {
	r.rotate()
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []Value
	count := func(name string, v uint64) {
		if f.keep(name, v > 0) {
			out = append(out, Value{name, int64(min(v, math.MaxInt64))})
		}
	}
	if f.wants(Counters) {
		for k, c := range r.counters {
			count(k, c.Value())
		}
		r.vectors.Range(func(name, v any) bool {
			v.(*Vec).each(func(labels string, c *Counter) { count(dotted(name.(string), labels), c.Value()) })
			return true
		})
	}
	gauge := func(name string, g *Gauge) {
		if f.keep(name, g.used.Load()) {
			out = append(out, Value{name, g.Value()})
		}
	}
	if f.wants(Gauges) {
		for k, g := range r.gauges {
			gauge(k, &g.Gauge)
		}
		r.gaugeVecs.Range(func(name, v any) bool {
			v.(*GaugeVec).each(func(labels string, g *Gauge) { gauge(dotted(name.(string), labels), g) })
			return true
		})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// histogramsOf returns the histograms that are to be shown, by name.
func (r *Registry) histogramsOf(f Filter) map[string]*Histogram {
	out := map[string]*Histogram{}
	if !f.wants(Histograms) {
		return out
	}
	add := func(name string, h *Histogram) {
		if f.keep(name, h.Count() > 0) {
			out[name] = h
		}
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for k, h := range r.histograms {
		add(k, &h.Histogram)
	}
	r.tables.Range(func(name, v any) bool {
		v.(*HistogramVec).each(func(labels string, h *Histogram) { add(dotted(name.(string), labels), h) })
		return true
	})
	return out
}

func (r *Registry) textsOf(f Filter) map[string]string {
	out := map[string]string{}
	if !f.wants(Texts) {
		return out
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for k, t := range r.texts {
		if v := t.Value(); f.keep(k, v != "") {
			out[k] = v
		}
	}
	return out
}

var quantiles = []float64{0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100}

// WriteText writes text readouts, then "name: value" lines sorted by name, then the histograms, as Envoy's /stats does.
func (r *Registry) WriteText(w io.Writer, f Filter, how Buckets) error {
	b := bufio.NewWriter(w)
	texts := r.textsOf(f)
	for _, k := range sortedKeys(texts) {
		fmt.Fprintf(b, "%s: %q\n", k, texts[k])
	}
	for _, v := range r.Values(f) {
		fmt.Fprintf(b, "%s: %d\n", v.Name, v.Value)
	}
	hs := r.histogramsOf(f)
	for _, k := range sortedKeys(hs) {
		b.WriteString(k + ":")
		writeSummary(b, hs[k], how)
		b.WriteByte('\n')
	}
	return b.Flush()
}

func writeSummary(b *bufio.Writer, h *Histogram, how Buckets) {
	if h.Count() == 0 {
		b.WriteString(" No recorded values")
		return
	}
	if how == Summary {
		for _, q := range quantiles {
			fmt.Fprintf(b, " P%g(nan,%.5g)", q, h.Quantile(q/100))
		}
		return
	}
	var n uint64
	for i := range Bounds {
		in := h.buckets[i].Load()
		if n += in; how == Cumulative {
			in = n
		}
		fmt.Fprintf(b, " B%g(0,%d)", Bounds[i], in)
	}
}

// WriteJSON writes the same as WriteText in the form of Envoy's /stats?format=json.
func (r *Registry) WriteJSON(w io.Writer, f Filter) error {
	type interval struct {
		Interval   *float64 `json:"interval"`
		Cumulative *float64 `json:"cumulative"`
	}
	type computed struct {
		Name   string     `json:"name"`
		Values []interval `json:"values"`
	}
	out := struct {
		Stats []any `json:"stats"`
	}{Stats: []any{}}
	texts := r.textsOf(f)
	for _, k := range sortedKeys(texts) {
		out.Stats = append(out.Stats, map[string]string{"name": k, "value": texts[k]})
	}
	for _, v := range r.Values(f) {
		out.Stats = append(out.Stats, v)
	}
	hs := r.histogramsOf(f)
	var list []computed
	for _, k := range sortedKeys(hs) {
		c := computed{Name: k}
		for _, q := range quantiles {
			var v interval
			if hs[k].Count() > 0 {
				n := hs[k].Quantile(q / 100)
				v.Cumulative = &n
			}
			c.Values = append(c.Values, v)
		}
		list = append(list, c)
	}
	if len(list) > 0 {
		out.Stats = append(out.Stats, map[string]any{"histograms": map[string]any{
			"supported_quantiles": quantiles, "computed_quantiles": list,
		}})
	}
	return json.NewEncoder(w).Encode(out)
}

// Names returns the dotted names of all stats, sorted.
func (r *Registry) Names() []string {
	var out []string
	for _, v := range r.Values(Filter{}) {
		out = append(out, v.Name)
	}
	out = append(out, sortedKeys(r.histogramsOf(Filter{}))...)
	sort.Strings(out)
	return out
}

func cutLabels(labels string) string { return strings.TrimSuffix(labels, ",") }
