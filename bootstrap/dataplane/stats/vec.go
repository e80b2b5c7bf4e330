package stats

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Vec is one metric split by labels. The label key is the rendered Prometheus label list.
type Vec struct{ table[Counter] }

// GaugeVec is one gauge split by labels.
type GaugeVec struct{ table[Gauge] }

// HistogramVec is one histogram split by labels.
type HistogramVec struct{ table[Histogram] }

// table keeps the series of one metric by labels.
type table[T any] struct {
	series sync.Map // string -> *T
	mu     sync.Mutex
	seen   map[string]sighting // for rotation
}

// sighting is what a series held when it was last seen to change.
type sighting struct {
	value uint64
	at    time.Time
}

// With returns the series for the rendered labels.
func (v *table[T]) With(labels string) *T {
	if c, ok := v.series.Load(labels); ok {
		return c.(*T)
	}
	c, _ := v.series.LoadOrStore(labels, new(T))
	return c.(*T)
}

func (v *table[T]) each(fn func(labels string, t *T)) {
	v.series.Range(func(labels, t any) bool {
		fn(labels.(string), t.(*T))
		return true
	})
}

// rotate forgets series whose value has not changed for age. It reports whether any went.
func (v *table[T]) rotate(now time.Time, age time.Duration, value func(*T) uint64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.seen == nil {
		v.seen = map[string]sighting{}
	}
	gone := false
	v.each(func(labels string, t *T) {
		n := value(t)
		old, known := v.seen[labels]
		switch {
		case !known || old.value != n:
			v.seen[labels] = sighting{n, now}
		case now.Sub(old.at) >= age:
			v.series.Delete(labels)
			delete(v.seen, labels)
			gone = true
		}
	})
	return gone
}

// rotation is how long labelled series outlive their last change.
type rotation struct {
	age        atomic.Int64 // 0 for ever
	generation atomic.Uint64
}

// Rotate makes labelled counters and histograms go that have not changed for interval, after another grace. They are
// looked at whenever they are shown.
func (r *Registry) Rotate(interval, grace time.Duration) {
	age := int64(interval + grace)
	if old := r.rotation.age.Load(); old == 0 || age < old {
		r.rotation.age.Store(age)
	}
}

// Generation changes when series have gone: what With has returned before may count for nobody.
func (r *Registry) Generation() uint64 { return r.rotation.generation.Load() }

func (r *Registry) rotate() {
	age := time.Duration(r.rotation.age.Load())
	if age == 0 {
		return
	}
	now, gone := time.Now(), false
	r.vectors.Range(func(_, v any) bool {
		gone = v.(*Vec).rotate(now, age, (*Counter).Value) || gone
		return true
	})
	r.tables.Range(func(_, v any) bool {
		gone = v.(*HistogramVec).rotate(now, age, (*Histogram).Count) || gone
		return true
	})
	if gone {
		r.rotation.generation.Add(1)
	}
}

func named[V any](m *sync.Map, name string) *V {
	if v, ok := m.Load(name); ok {
		return v.(*V)
	}
	v, _ := m.LoadOrStore(name, new(V))
	return v.(*V)
}

// Vec returns the labelled counter of that Prometheus name.
func (r *Registry) Vec(name string) *Vec { return named[Vec](&r.vectors, name) }

// GaugeVec returns the labelled gauge of that Prometheus name.
func (r *Registry) GaugeVec(name string) *GaugeVec { return named[GaugeVec](&r.gaugeVecs, name) }

// HistogramVec returns the labelled histogram of that Prometheus name.
func (r *Registry) HistogramVec(name string) *HistogramVec {
	return named[HistogramVec](&r.tables, name)
}

// custom is the prefix under which Envoy keeps labelled metrics that are not its own.
const custom = "istiocustom."

// dotted is the full name of a labelled series, as Envoy makes it of the name and every label.
func dotted(name, labels string) string {
	var b strings.Builder
	b.WriteString(custom + name)
	for labels != "" {
		k, rest, ok := strings.Cut(labels, `="`)
		if !ok {
			break
		}
		b.WriteByte('.')
		b.WriteString(k)
		b.WriteByte('.')
		i := 0
		for ; i < len(rest) && rest[i] != '"'; i++ {
			if rest[i] == '\\' && i+1 < len(rest) {
				i++
			}
			b.WriteByte(rest[i])
		}
		labels = strings.TrimPrefix(rest[min(i+1, len(rest)):], ",")
	}
	return b.String()
}
