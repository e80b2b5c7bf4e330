package stats

import (
	"math"
	"sort"
	"sync"
	"sync/atomic"
)

// Bounds are the upper bounds of the histogram buckets, Envoy's defaults; the unit is that of the observed values
// (milliseconds, bytes).
var Bounds = [...]float64{
	0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000,
}

// Histogram counts values in Bounds.
type Histogram struct {
	buckets [len(Bounds) + 1]atomic.Uint64
	sum     atomic.Uint64 // float64 bits
}

// Observe records one value.
func (h *Histogram) Observe(v float64) {
	h.buckets[sort.SearchFloat64s(Bounds[:], v)].Add(1)
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+v)) {
			return
		}
	}
}

// Count returns how many values were observed.
func (h *Histogram) Count() uint64 {
	var n uint64
	for i := range h.buckets {
		n += h.buckets[i].Load()
	}
	return n
}

// Quantile estimates the q-th quantile (0 to 1) as the upper bound of the bucket that holds it; 0 when empty.
func (h *Histogram) Quantile(q float64) float64 {
	total := h.Count()
	if total == 0 {
		return 0
	}
	want := uint64(math.Ceil(q * float64(total)))
	var n uint64
	for i := range Bounds {
		n += h.buckets[i].Load()
		if n >= want {
			return Bounds[i]
		}
	}
	return Bounds[len(Bounds)-1]
}

// Vec is one metric split by labels. The label key is the rendered Prometheus label list.
type Vec struct{ series sync.Map } // string -> *Counter

// With returns the counter for the rendered labels.
func (v *Vec) With(labels string) *Counter {
	if c, ok := v.series.Load(labels); ok {
		return c.(*Counter)
	}
	c, _ := v.series.LoadOrStore(labels, &Counter{})
	return c.(*Counter)
}

// HistogramVec is one histogram split by labels.
type HistogramVec struct{ series sync.Map } // string -> *Histogram

// With returns the histogram for the rendered labels.
func (v *HistogramVec) With(labels string) *Histogram {
	if h, ok := v.series.Load(labels); ok {
		return h.(*Histogram)
	}
	h, _ := v.series.LoadOrStore(labels, &Histogram{})
	return h.(*Histogram)
}

// Vec returns the labelled counter of that Prometheus name.
func (r *Registry) Vec(name string) *Vec {
	if v, ok := r.vectors.Load(name); ok {
		return v.(*Vec)
	}
	v, _ := r.vectors.LoadOrStore(name, &Vec{})
	return v.(*Vec)
}

// HistogramVec returns the labelled histogram of that Prometheus name.
func (r *Registry) HistogramVec(name string) *HistogramVec {
	if v, ok := r.tables.Load(name); ok {
		return v.(*HistogramVec)
	}
	v, _ := r.tables.LoadOrStore(name, &HistogramVec{})
	return v.(*HistogramVec)
}
