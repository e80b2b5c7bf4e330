package cluster

import (
	"math/rand/v2"
	"sync"
)

// edf picks hosts by earliest deadline: whoever was picked is due again after the reciprocal of the weight that it has
// at that moment. It serves weights that change between picks.
type edf struct {
	mu    sync.Mutex
	now   float64
	count uint64
	heap  []due
	weigh func(*Endpoint) float64
}

type due struct {
	at    float64
	order uint64 // whoever has waited longer comes first at the same deadline
	host  *Endpoint
}

func newEDF(hosts []*Endpoint, weigh func(*Endpoint) float64) *edf {
	e := &edf{weigh: weigh}
	for _, h := range hosts {
		e.heap = append(e.heap, due{at: 1 / positive(weigh(h)), order: e.count, host: h})
		e.count++
	}
	for i := len(e.heap)/2 - 1; i >= 0; i-- {
		e.sift(i)
	}
	// Many proxies should not all begin with the same host.
	for range rand.IntN(max(len(hosts), 1)) {
		e.next()
	}
	return e
}

const leastWeight = 1e-6

func positive(w float64) float64 { return max(w, leastWeight) }

func (e *edf) pick(uint64, int) *Endpoint {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.next()
}

func (e *edf) next() *Endpoint {
	top := &e.heap[0]
	h := top.host
	e.now = top.at
	top.at = e.now + 1/positive(e.weigh(h))
	top.order = e.count
	e.count++
	e.sift(0)
	return h
}

func (e *edf) before(a, b *due) bool { return a.at < b.at || (a.at == b.at && a.order < b.order) }

func (e *edf) sift(i int) {
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(e.heap); c++ {
			if e.before(&e.heap[c], &e.heap[least]) {
				least = c
			}
		}
		if least == i {
			return
		}
		e.heap[i], e.heap[least] = e.heap[least], e.heap[i]
		i = least
	}
}
