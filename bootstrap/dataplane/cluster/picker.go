package cluster

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// picker chooses among the hosts of one group, of which there is at least one. hash matters to consistent hashing only;
// attempt counts the picks for one request, from 0, for pickers that would give the same host again. It is safe for
// concurrent use and does not allocate.
type picker interface {
	pick(hash uint64, attempt int) *Endpoint
}

var (
	_ picker = (*rotation)(nil)
	_ picker = (*edf)(nil)
	_ picker = (*choices)(nil)
	_ picker = (*anyHost)(nil)
	_ picker = (*ring)(nil)
	_ picker = (*maglevTable)(nil)
	_ picker = (*bounded)(nil)
	_ picker = (*localities)(nil)
)

// hostPicker makes the picker of a group without regard to localities; nil for no hosts.
func (b *balance) hostPicker(hosts []*Endpoint) picker {
	if len(hosts) == 0 {
		return nil
	}
	equal := true
	for _, h := range hosts {
		equal = equal && h.Weight == hosts[0].Weight
	}
	warming := !b.slow.until(hosts, time.Now()).IsZero()
	switch b.policy {
	case random:
		return &anyHost{hosts}
	case leastRequest:
		if equal && !warming {
			return &choices{hosts, b.choices, b.fullScan}
		}
		return newEDF(hosts, b.biased)
	case ringHash, maglev:
		return b.hashPicker(hosts, plainWeights(hosts))
	default:
		if warming {
			return newEDF(hosts, b.ramped)
		}
		return newRotation(schedule(hosts, plainWeights(hosts)))
	}
}

func plainWeights(hosts []*Endpoint) []float64 {
	out := make([]float64, len(hosts))
	for i, h := range hosts {
		out[i] = float64(h.Weight)
	}
	return out
}

// ramped is a host's weight while it may be starting slowly.
func (b *balance) ramped(h *Endpoint) float64 {
	w := float64(h.Weight)
	if b.slow.window > 0 {
		w *= b.slow.factor(time.Since(h.since()))
	}
	return w
}

// biased is a host's weight under least request: the less the more it has to do.
func (b *balance) biased(h *Endpoint) float64 {
	busy := float64(max(h.Active.Load(), 0)) + 1
	if b.bias != 1 {
		busy = math.Pow(busy, b.bias)
	}
	return b.ramped(h) / busy
}

// rotation goes round a list in which hosts stand as often as their weights say.
type rotation struct {
	list []*Endpoint
	next atomic.Uint64
}

func newRotation(list []*Endpoint) *rotation {
	r := &rotation{list: list}
	// A fresh start at a random place keeps many proxies from hitting the first host together.
	r.next.Store(rand.Uint64N(uint64(len(list))))
	return r
}

func (r *rotation) pick(uint64, int) *Endpoint {
	if len(r.list) == 1 {
		return r.list[0]
	}
	return r.list[r.next.Add(1)%uint64(len(r.list))]
}

// anyHost picks at random, whatever the weights.
type anyHost struct{ hosts []*Endpoint }

func (a *anyHost) pick(uint64, int) *Endpoint { return a.hosts[rand.IntN(len(a.hosts))] }

// choices picks the least busy of a few hosts drawn at random, or of all.
type choices struct {
	hosts []*Endpoint
	n     int
	all   bool
}

func (c *choices) pick(uint64, int) *Endpoint {
	if len(c.hosts) == 1 {
		return c.hosts[0]
	}
	if c.all {
		return c.scan()
	}
	best := c.hosts[rand.IntN(len(c.hosts))]
	for range c.n - 1 {
		if h := c.hosts[rand.IntN(len(c.hosts))]; h.Active.Load() < best.Active.Load() {
			best = h
		}
	}
	return best
}

// scan compares all hosts, beginning anywhere so that ties do not go to the first.
func (c *choices) scan() *Endpoint {
	at := rand.IntN(len(c.hosts))
	best := c.hosts[at]
	for range len(c.hosts) - 1 {
		if at++; at == len(c.hosts) {
			at = 0
		}
		if h := c.hosts[at]; h.Active.Load() < best.Active.Load() {
			best = h
		}
	}
	return best
}

const maxSchedule = 1 << 14

// schedule spreads items by weight, as earliest deadline first does. Equal weights give the items themselves.
func schedule[T any](items []T, weights []float64) []T {
	equal := true
	var total uint64
	whole := make([]uint64, len(weights))
	for i, w := range weights {
		equal = equal && w == weights[0]
		whole[i] = uint64(w)
	}
	if equal {
		return items
	}
	total, whole = reduce(whole, weights)
	credit := make([]int64, len(items))
	out := make([]T, 0, total)
	for range total {
		best := -1
		for i, w := range whole {
			credit[i] += int64(w)
			if w > 0 && (best < 0 || credit[i] > credit[best]) {
				best = i
			}
		}
		credit[best] -= int64(total)
		out = append(out, items[best])
	}
	return out
}

// reduce gives whole numbers in the proportion of weights whose sum makes a list of a sensible length.
func reduce(whole []uint64, weights []float64) (uint64, []uint64) {
	exact := true
	var sum float64
	var total, divisor uint64
	for i, w := range weights {
		exact = exact && float64(whole[i]) == w
		sum += w
		total += whole[i]
		divisor = gcd(divisor, whole[i])
	}
	if exact && total/divisor <= maxSchedule {
		for i := range whole {
			whole[i] /= divisor
		}
		return total / divisor, whole
	}
	total = 0
	for i, w := range weights {
		whole[i] = 0
		if w > 0 {
			whole[i] = max(uint64(math.Round(w/sum*maxSchedule)), 1)
		}
		total += whole[i]
	}
	return total, whole
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
