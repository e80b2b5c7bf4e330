package stats

import (
	"bufio"
	"fmt"
	"io"
	"sort"
	"strconv"
)

type promLine struct{ labels, value string }

// families are the lines of a scrape by metric name.
type families map[string][]promLine

func (f families) add(name, labels, value string) { f[name] = append(f[name], promLine{labels, value}) }

// WritePrometheus writes stats in the Prometheus text format. Text readouts are written only where f.Kinds names them:
// as gauges that are zero, with the text as a label, as Envoy does.
func (r *Registry) WritePrometheus(w io.Writer, f Filter) error {
	r.rotate()
	counters, gauges := families{}, families{}
	histograms := map[string]map[string]*Histogram{}
	r.mu.RLock()
	if f.wants(Counters) {
		for k, c := range r.counters {
			if v := c.Value(); f.keep(k, v > 0) {
				counters.add(c.prom, c.labels, strconv.FormatUint(v, 10))
			}
		}
	}
	if f.wants(Gauges) {
		for k, g := range r.gauges {
			if f.keep(k, g.used.Load()) {
				gauges.add(g.prom, g.labels, strconv.FormatInt(g.Value(), 10))
			}
		}
	}
	if f.wants(Histograms) {
		for k, h := range r.histograms {
			if f.keep(k, h.Count() > 0) {
				addHistogram(histograms, h.prom, h.labels, &h.Histogram)
			}
		}
	}
	r.mu.RUnlock()
	r.labelled(f, counters, gauges, histograms)
	if f.Kinds&Texts != 0 {
		for k, v := range r.textsOf(f) {
			gauges.add("envoy_"+promName(k), Label("text_value", v), "0")
		}
	}
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

// labelled adds the metrics that have labels of their own.
func (r *Registry) labelled(f Filter, counters, gauges families, histograms map[string]map[string]*Histogram) {
	keep := func(name, labels string, used bool) bool {
		return f.Match == nil && (used || !f.UsedOnly) || f.Match != nil && f.keep(dotted(name, labels), used)
	}
	if f.wants(Counters) {
		r.vectors.Range(func(n, v any) bool {
			name := n.(string)
			v.(*Vec).each(func(labels string, c *Counter) {
				if keep(name, labels, true) {
					counters.add(name, labels, strconv.FormatUint(c.Value(), 10))
				}
			})
			return true
		})
	}
	if f.wants(Gauges) {
		r.gaugeVecs.Range(func(n, v any) bool {
			name := n.(string)
			v.(*GaugeVec).each(func(labels string, g *Gauge) {
				if keep(name, labels, true) {
					gauges.add(name, labels, strconv.FormatInt(g.Value(), 10))
				}
			})
			return true
		})
	}
	if f.wants(Histograms) {
		r.tables.Range(func(n, v any) bool {
			name := n.(string)
			v.(*HistogramVec).each(func(labels string, h *Histogram) {
				if keep(name, labels, true) {
					addHistogram(histograms, name, labels, h)
				}
			})
			return true
		})
	}
}

func addHistogram(m map[string]map[string]*Histogram, name, labels string, h *Histogram) {
	if m[name] == nil {
		m[name] = map[string]*Histogram{}
	}
	m[name][labels] = h
}

func writeFamilies(b *bufio.Writer, kind string, families families) {
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
	labels = cutLabels(labels)
	var n uint64
	for i := range Bounds {
		n += h.buckets[i].Load()
		fmt.Fprintf(b, "%s_bucket{%s%sle=\"%g\"} %d\n", name, labels, sep, Bounds[i], n)
	}
	n += h.buckets[len(Bounds)].Load()
	fmt.Fprintf(b, "%s_bucket{%s%sle=\"+Inf\"} %d\n", name, labels, sep, n)
	fmt.Fprintf(b, "%s_sum{%s} %g\n", name, labels, h.Sum())
	fmt.Fprintf(b, "%s_count{%s} %d\n", name, labels, n)
}
