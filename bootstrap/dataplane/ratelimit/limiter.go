package ratelimit

import (
	"container/list"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// Entry is one key and value of a descriptor.
type Entry struct{ Key, Value string }

// Descriptor describes a request by entries, in order.
type Descriptor []Entry

// Settings are what limiters are made from.
type Settings struct {
	whole   *Rate // nil where only descriptors are limited
	special []special
	always  bool // the whole's bucket pays for requests with a descriptor, too
	dynamic int  // how many values of an open entry have buckets of their own
}

type special struct {
	entries Descriptor
	open    bool // some entry takes any value, and each has its own bucket
	rate    Rate
	shadow  bool
}

// defaultDynamic is Envoy's for max_dynamic_descriptors.
const defaultDynamic = 20

// Compile translates the buckets of a local rate limit filter. bucket may be nil.
func Compile(bucket *typev3.TokenBucket, list []*commonv3.LocalRateLimitDescriptor, always bool, dynamic int) (*Settings, error) {
	out := &Settings{always: always, dynamic: dynamic}
	if dynamic == 0 {
		out.dynamic = defaultDynamic
	}
	if bucket != nil {
		r, err := CompileRate(bucket)
		if err != nil {
			return nil, err
		}
		out.whole = &r
	}
	seen := map[string]bool{}
	for _, d := range list {
		if err := fields.Check(d, "entries token_bucket shadow_mode"); err != nil {
			return nil, err
		}
		r, err := CompileRate(d.GetTokenBucket())
		if err != nil {
			return nil, fmt.Errorf("descriptors: %w", err)
		}
		one := special{rate: r, shadow: d.GetShadowMode()}
		for _, e := range d.GetEntries() {
			one.entries = append(one.entries, Entry{e.GetKey(), e.GetValue()})
			one.open = one.open || e.GetValue() == ""
		}
		if len(one.entries) == 0 {
			return nil, errors.New("descriptors: entries must not be empty")
		}
		if k := one.entries.key(); seen[k] {
			return nil, fmt.Errorf("duplicate descriptor in the local rate limit descriptor: %v", one.entries)
		} else {
			seen[k] = true
		}
		out.special = append(out.special, one)
	}
	return out, nil
}

func (d Descriptor) key() string {
	var b strings.Builder
	for _, e := range d {
		fmt.Fprintf(&b, "%d:%s=%d:%s;", len(e.Key), e.Key, len(e.Value), e.Value)
	}
	return b.String()
}

// fits reports whether d is one of the requests that the entries stand for.
func (s *special) fits(d Descriptor) bool {
	if len(d) != len(s.entries) {
		return false
	}
	for i, e := range s.entries {
		if e.Key != d[i].Key || e.Value != d[i].Value && e.Value != "" {
			return false
		}
	}
	return true
}

// Limiter holds the buckets of one scope: a filter, a route or a connection. It is safe for concurrent use.
type Limiter struct {
	set   *Settings
	whole *Bucket
	fixed []*Bucket // by index of special; nil for open ones
	mu    sync.Mutex
	open  []recent
}

// recent keeps buckets of the values that an open descriptor has met last.
type recent struct {
	byKey map[string]*list.Element
	order *list.List // of *named, latest first
}

type named struct {
	key    string
	bucket *Bucket
}

// New returns a limiter with full buckets.
func (s *Settings) New(now time.Time) *Limiter {
	l := &Limiter{set: s, fixed: make([]*Bucket, len(s.special)), open: make([]recent, len(s.special))}
	if s.whole != nil {
		l.whole = s.whole.New(now)
	}
	for i := range s.special {
		if s.special[i].open {
			l.open[i] = recent{map[string]*list.Element{}, list.New()}
		} else {
			l.fixed[i] = s.special[i].rate.New(now)
		}
	}
	return l
}

// Limited reports whether the settings have any bucket.
func (s *Settings) Limited() bool { return s.whole != nil || len(s.special) > 0 }

type hit struct {
	bucket *Bucket
	shadow bool
}

// Allow takes a token for a request of those descriptors from each bucket that is meant, scarcest first. It returns the
// bucket that decided, nil where none is meant.
func (l *Limiter) Allow(now time.Time, ds []Descriptor) (bool, *Bucket) {
	var hits []hit
	for _, d := range ds {
		if h, ok := l.find(now, d); ok {
			hits = append(hits, h)
		}
	}
	if len(hits) > 1 {
		slices.SortStableFunc(hits, func(a, b hit) int {
			switch x, y := a.bucket.rate.perSec, b.bucket.rate.perSec; {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return 0
		})
	}
	for _, h := range hits {
		if !h.bucket.Take(now) {
			return h.shadow, h.bucket
		}
	}
	if l.whole != nil && (len(hits) == 0 || l.set.always) && !l.whole.Take(now) {
		return false, l.whole
	}
	if len(hits) > 0 {
		return true, hits[0].bucket
	}
	return true, l.whole
}

// find returns the bucket of a descriptor; one with all values given comes before one with open ones.
func (l *Limiter) find(now time.Time, d Descriptor) (hit, bool) {
	best := -1
	for i := range l.set.special {
		s := &l.set.special[i]
		if !s.fits(d) {
			continue
		}
		if !s.open {
			return hit{l.fixed[i], s.shadow}, true
		}
		if best < 0 {
			best = i
		}
	}
	if best < 0 {
		return hit{}, false
	}
	s := &l.set.special[best]
	return hit{l.dynamic(best, d.key(), now), s.shadow}, true
}

func (l *Limiter) dynamic(i int, key string, now time.Time) *Bucket {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.open[i]
	if e, ok := r.byKey[key]; ok {
		r.order.MoveToFront(e)
		return e.Value.(*named).bucket
	}
	if r.order.Len() >= l.set.dynamic {
		last := r.order.Back()
		delete(r.byKey, last.Value.(*named).key)
		r.order.Remove(last)
	}
	n := &named{key, l.set.special[i].rate.New(now)}
	r.byKey[key] = r.order.PushFront(n)
	return n.bucket
}
