package stats

import (
	"math"
	"sort"
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

// Sum returns the sum of what was observed.
func (h *Histogram) Sum() float64 { return math.Float64frombits(h.sum.Load()) }

func (h *Histogram) reset() {
	for i := range h.buckets {
		h.buckets[i].Store(0)
	}
	h.sum.Store(0)
}

// Quantile estimates the q-th quantile (0 to 1) by interpolation within the bucket that holds it; 0 when empty.
func (h *Histogram) Quantile(q float64) float64 {
	total := h.Count()
	if total == 0 {
		return 0
	}
	want := max(q*float64(total), 1)
	var n, low float64
	for i := range Bounds {
		in := float64(h.buckets[i].Load())
		if in > 0 && n+in >= want {
			return low + (Bounds[i]-low)*(want-n)/in
		}
		n, low = n+in, Bounds[i]
	}
	return low
}
