package peer

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Cache gives one and the same Info for what a peer says again and again. It holds a bounded number of workloads and
// begins anew when that is not enough. It is safe for concurrent use; a hit takes no lock.
type Cache struct {
	max   int
	mu    sync.Mutex
	known atomic.Pointer[map[said]*Info]
}

// said is what was said of a workload, and whether a peer said it or istiod.
type said struct {
	id, metadata string
	endpoint     bool
}

// NewCache returns a cache for at most max workloads.
func NewCache(max int) *Cache {
	c := &Cache{max: max}
	c.known.Store(&map[said]*Info{})
	return c
}

// Decode is Decode, remembered.
func (c *Cache) Decode(id, metadata string) *Info {
	if metadata == "" {
		return nil
	}
	return c.get(said{id: id, metadata: metadata}, func() *Info { return Decode(id, metadata) })
}

// Endpoint is FromEndpoint, remembered.
func (c *Cache) Endpoint(text string) *Info {
	if text == "" {
		return nil
	}
	return c.get(said{metadata: text, endpoint: true}, func() *Info { return FromEndpoint(text) })
}

func (c *Cache) get(k said, parse func() *Info) *Info {
	if i, ok := (*c.known.Load())[k]; ok {
		return i
	}
	i := parse()
	if i == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := *c.known.Load()
	if i, ok := old[k]; ok {
		return i
	}
	next := map[said]*Info{}
	if len(old) < c.max {
		next = maps.Clone(old)
	}
	next[k] = i
	c.known.Store(&next)
	return i
}
