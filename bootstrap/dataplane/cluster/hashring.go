package cluster

import (
	"math"
	"math/rand/v2"
	"sort"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// hashKey is what stands for a host in consistent hashing: envoy.lb's hash_key in its metadata, else its name or address.
func (b *balance) hashKey(h *Endpoint) string {
	if k := h.Metadata.GetFilterMetadata()["envoy.lb"].GetFields()["hash_key"].GetStringValue(); k != "" {
		return k
	}
	if b.byHostname {
		return h.Hostname
	}
	return h.Address
}

// hashPicker makes the picker of a consistent hashing policy. Weights stand for their proportions.
func (b *balance) hashPicker(hosts []*Endpoint, weights []float64) picker {
	var sum float64
	for _, w := range weights {
		sum += w
	}
	list := make([]weighted, 0, len(hosts))
	for i, h := range hosts {
		if weights[i] > 0 {
			list = append(list, weighted{h, b.hashKey(h), weights[i] / sum})
		}
	}
	if len(list) == 0 {
		return nil
	}
	var p picker
	if b.policy == maglev {
		p = newMaglev(list, b.table)
	} else {
		p = newRing(list, b.minRing, b.maxRing)
	}
	if b.factor > 0 {
		return newBounded(p, list, b.factor)
	}
	return p
}

type weighted struct {
	host  *Endpoint
	key   string
	share float64 // of the whole, 0 to 1
}

// ring is a circle of hashes on which each host stands many times.
type ring struct {
	hashes []uint64
	hosts  []*Endpoint
}

func newRing(list []weighted, least, most uint64) *ring {
	smallest := 1.0
	for _, w := range list {
		smallest = min(smallest, w.share)
	}
	// The host with the least weight stands a whole number of times on the ring.
	scale := min(math.Ceil(smallest*float64(least))/smallest, float64(most))
	type entry struct {
		hash uint64
		host *Endpoint
	}
	entries := make([]entry, 0, int(math.Ceil(scale)))
	current, target := 0.0, 0.0
	var buf []byte
	for _, w := range list {
		target += scale * w.share
		for i := 0; current < target; i++ {
			buf = strconv.AppendInt(append(append(buf[:0], w.key...), '_'), int64(i), 10)
			entries = append(entries, entry{xxhash.Sum64(buf), w.host})
			current++
		}
	}
	sort.SliceStable(entries, func(i, j int) bool { return entries[i].hash < entries[j].hash })
	r := &ring{hashes: make([]uint64, len(entries)), hosts: make([]*Endpoint, len(entries))}
	for i, e := range entries {
		r.hashes[i], r.hosts[i] = e.hash, e.host
	}
	return r
}

func (r *ring) pick(hash uint64, attempt int) *Endpoint {
	lo, hi := 0, len(r.hashes)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if r.hashes[mid] < hash {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return r.hosts[(lo+attempt)%len(r.hosts)]
}

// maglevTable gives each host its part of a table with as little change as may be when hosts come and go.
type maglevTable struct{ table []*Endpoint }

func newMaglev(list []weighted, size uint64) *maglevTable {
	// Every proxy builds the same table, in whatever order the hosts came.
	list = append([]weighted(nil), list...)
	sort.Slice(list, func(i, j int) bool { return list[i].key < list[j].key })
	type row struct {
		offset, skip, next uint64
		target             float64
	}
	rows := make([]row, len(list))
	most := 0.0
	for i, w := range list {
		d := xxhash.NewWithSeed(1)
		_, _ = d.WriteString(w.key)
		rows[i] = row{offset: xxhash.Sum64String(w.key) % size, skip: d.Sum64()%max(size-1, 1) + 1}
		most = max(most, w.share)
	}
	t := &maglevTable{make([]*Endpoint, size)}
	for filled, turn := uint64(0), 1.0; filled < size; turn++ {
		for i := range rows {
			if filled == size {
				break
			}
			r := &rows[i]
			if turn*list[i].share < r.target {
				continue // hosts with less weight sit out turns
			}
			r.target += most
			at := (r.offset + r.skip*r.next) % size
			for t.table[at] != nil {
				r.next++
				at = (r.offset + r.skip*r.next) % size
			}
			t.table[at] = list[i].host
			r.next++
			filled++
		}
	}
	return t
}

func (t *maglevTable) pick(hash uint64, attempt int) *Endpoint {
	if attempt > 0 {
		hash ^= ^uint64(0) - uint64(attempt) + 1
	}
	return t.table[hash%uint64(len(t.table))]
}

// bounded passes over hosts that have more than their share of the requests in flight.
type bounded struct {
	inner  picker
	list   []weighted
	share  map[*Endpoint]float64
	factor float64
}

func newBounded(p picker, list []weighted, percent uint32) *bounded {
	b := &bounded{inner: p, list: list, share: make(map[*Endpoint]float64, len(list)), factor: float64(percent) / 100}
	for _, w := range list {
		b.share[w.host] = w.share
	}
	return b
}

func (b *bounded) overload(h *Endpoint, share float64, all int64) float64 {
	slots := max(math.Ceil(math.Ceil(float64(all+1)*b.factor)*share), 1)
	return float64(h.Active.Load()+1) / slots
}

func (b *bounded) pick(hash uint64, attempt int) *Endpoint {
	var all int64
	for _, w := range b.list {
		all += w.host.Active.Load()
	}
	best := b.inner.pick(hash, attempt)
	least := b.overload(best, b.share[best], all)
	if least <= 1 {
		return best
	}
	// The walk over the others is the same for the same hash.
	r := rand.PCG{}
	r.Seed(hash, uint64(attempt))
	at, step := int(r.Uint64()%uint64(len(b.list))), 1
	if len(b.list) > 2 {
		for step = int(r.Uint64()%uint64(len(b.list)-1)) + 1; gcd(uint64(step), uint64(len(b.list))) != 1; step++ {
		}
	}
	for range b.list {
		w := b.list[at]
		if o := b.overload(w.host, w.share, all); o < least {
			best, least = w.host, o
			if o <= 1 {
				return best
			}
		}
		at = (at + step) % len(b.list)
	}
	return best
}
