// Package ratelimit counts what a proxy lets through: token buckets, chosen by what a request is described as.
//
// It knows Envoy's local rate limit settings and descriptors. It does not know requests: descriptors come ready made,
// and what happens to what is over the limit is the filter's business.
package ratelimit

import (
	"errors"
	"math"
	"sync"
	"time"

	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// Rate is the compiled form of a token bucket's settings.
type Rate struct {
	max      float64
	perSec   float64
	interval time.Duration
}

// minInterval is the shortest fill_interval that Envoy takes.
const minInterval = 50 * time.Millisecond

// CompileRate translates p.
func CompileRate(p *typev3.TokenBucket) (Rate, error) {
	if err := fields.Check(p, "max_tokens tokens_per_fill fill_interval"); err != nil {
		return Rate{}, err
	}
	d := p.GetFillInterval().AsDuration()
	switch {
	case p.GetMaxTokens() == 0:
		return Rate{}, errors.New("token_bucket: max_tokens must be greater than 0")
	case d < minInterval:
		return Rate{}, errors.New("local rate limit token bucket fill timer must be >= 50ms")
	}
	fill := uint32(1)
	if n := p.GetTokensPerFill(); n != nil {
		fill = n.GetValue()
	}
	if fill == 0 {
		return Rate{}, errors.New("token_bucket: tokens_per_fill must be greater than 0")
	}
	return Rate{float64(p.GetMaxTokens()), float64(fill) / d.Seconds(), d}, nil
}

// whole is what counts as a token: a little less than one, because sums of fractions are.
const whole = 1 - 1e-9

// Bucket is filled steadily and emptied one token at a time. It is safe for concurrent use.
type Bucket struct {
	rate Rate
	mu   sync.Mutex
	held float64
	at   time.Time
}

// New returns a full bucket.
func (r Rate) New(now time.Time) *Bucket { return &Bucket{rate: r, held: r.max, at: now} }

// Take takes a token if there is one.
func (b *Bucket) Take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill(now)
	if b.held < whole {
		return false
	}
	b.held = max(b.held-1, 0)
	return true
}

func (b *Bucket) fill(now time.Time) {
	if d := now.Sub(b.at); d > 0 {
		b.held = min(b.rate.max, b.held+d.Seconds()*b.rate.perSec)
		b.at = now
	}
}

// Level is what a bucket holds at one moment.
type Level struct {
	Limit, Remaining uint32
	Reset            uint64 // seconds until there is a token
}

// Level returns the bucket's level.
func (b *Bucket) Level(now time.Time) Level {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill(now)
	l := Level{Limit: uint32(b.rate.max), Remaining: uint32(b.held + (1 - whole))}
	if b.held < whole {
		l.Reset = uint64(math.Ceil((1 - b.held) / b.rate.perSec))
	}
	return l
}
