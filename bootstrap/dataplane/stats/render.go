package stats

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// Filter chooses which stats are shown. Match may be nil.
type Filter struct {
	UsedOnly bool
	Match    *regexp.Regexp
}

func (f Filter) keep(name string, used bool) bool {
	return (used || !f.UsedOnly) && (f.Match == nil || f.Match.MatchString(name))
}

// Value is one number under its dotted name.
type Value struct {
	Name  string
	Value int64
}

// Values returns counters and gauges by name.
func (r *Registry) Values(f Filter) []Value {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []Value
	for k, c := range r.counters {
		if v := c.Value(); f.keep(k, v > 0) {
			out = append(out, Value{k, int64(min(v, math.MaxInt64))})
		}
	}
	for k, g := range r.gauges {
		if f.keep(k, g.used.Load()) {
			out = append(out, Value{k, g.Value()})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// WriteText writes "name: value" lines sorted by name, then the histograms, as Envoy's /stats does.
func (r *Registry) WriteText(w io.Writer, f Filter) error {
	b := bufio.NewWriter(w)
	for _, v := range r.Values(f) {
		fmt.Fprintf(b, "%s: %d\n", v.Name, v.Value)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, k := range sortedKeys(r.histograms) {
		h := r.histograms[k]
		n := h.Count()
		if !f.keep(k, n > 0) {
			continue
		}
		if n == 0 {
			fmt.Fprintf(b, "%s: No recorded values\n", k)
			continue
		}
		fmt.Fprintf(b, "%s: P50(nan,%g) P90(nan,%g) P99(nan,%g)\n", k, h.Quantile(.5), h.Quantile(.9), h.Quantile(.99))
	}
	return b.Flush()
}

type promLine struct{ labels, value string }

// WritePrometheus writes every used stat in the Prometheus text format.
func (r *Registry) WritePrometheus(w io.Writer, f Filter) error {
	counters, gauges := map[string][]promLine{}, map[string][]promLine{}
	histograms := map[string]map[string]*Histogram{}
	r.mu.RLock()
	for k, c := range r.counters {
		if v := c.Value(); f.keep(k, v > 0) {
			counters[c.prom] = append(counters[c.prom], promLine{c.labels, strconv.FormatUint(v, 10)})
		}
	}
	for k, g := range r.gauges {
		if f.keep(k, g.used.Load()) {
			gauges[g.prom] = append(gauges[g.prom], promLine{g.labels, strconv.FormatInt(g.Value(), 10)})
		}
	}
	for k, h := range r.histograms {
		if f.keep(k, h.Count() > 0) {
			addHistogram(histograms, h.prom, h.labels, &h.Histogram)
		}
	}
	r.mu.RUnlock()
	r.vectors.Range(func(name, v any) bool {
		v.(*Vec).series.Range(func(labels, c any) bool {
			if f.keep(name.(string), true) {
				n := name.(string)
				counters[n] = append(counters[n], promLine{labels.(string), strconv.FormatUint(c.(*Counter).Value(), 10)})
			}
			return true
		})
		return true
	})
	rangeTables(&r.tables, func(name, labels string, h *Histogram) {
		if f.keep(name, true) {
			addHistogram(histograms, name, labels, h)
		}
	})
	b := bufio.NewWriter(w)
	writeFamilies(b, "counter", counters)
	writeFamilies(b, "gauge", gauges)
	for _, name := range sortedKeys(histograms) {
		fmt.Fprintf(b, "# TYPE %s histogram\n", name)
		for _, labels := range sortedKeys(histograms[name]) {
			writeHistogram(b, name, labels, histograms[name][labels])
		}
	}
	return b.Flush()
}

func rangeTables(m *sync.Map, fn func(name, labels string, h *Histogram)) {
	m.Range(func(name, v any) bool {
		v.(*HistogramVec).series.Range(func(labels, h any) bool {
			fn(name.(string), labels.(string), h.(*Histogram))
			return true
		})
		return true
	})
}

func addHistogram(m map[string]map[string]*Histogram, name, labels string, h *Histogram) {
	if m[name] == nil {
		m[name] = map[string]*Histogram{}
	}
	m[name][labels] = h
}

func writeFamilies(b *bufio.Writer, kind string, families map[string][]promLine) {
	for _, name := range sortedKeys(families) {
		lines := families[name]
		sort.Slice(lines, func(i, j int) bool { return lines[i].labels < lines[j].labels })
		fmt.Fprintf(b, "# TYPE %s %s\n", name, kind)
		for _, l := range lines {
			fmt.Fprintf(b, "%s{%s} %s\n", name, l.labels, l.value)
		}
	}
}

func writeHistogram(b *bufio.Writer, name, labels string, h *Histogram) {
	sep := ","
	if labels == "" {
		sep = ""
	}
	labels = strings.TrimSuffix(labels, ",")
	var n uint64
	for i := range Bounds {
		n += h.buckets[i].Load()
		fmt.Fprintf(b, "%s_bucket{%s%sle=\"%g\"} %d\n", name, labels, sep, Bounds[i], n)
	}
	n += h.buckets[len(Bounds)].Load()
	fmt.Fprintf(b, "%s_bucket{%s%sle=\"+Inf\"} %d\n", name, labels, sep, n)
	fmt.Fprintf(b, "%s_sum{%s} %g\n", name, labels, math.Float64frombits(h.sum.Load()))
	fmt.Fprintf(b, "%s_count{%s} %d\n", name, labels, n)
}
