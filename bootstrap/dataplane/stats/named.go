package stats

// Named returns the counter of that full dotted name, making it when it is new. prom and labels are what Prometheus sees
// of it, for names that Istio's tag rules take apart.
func (r *Registry) Named(full, prom, labels string) *Counter {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.counters[full]
	if !ok {
		c = &namedCounter{prom: promName(prom), labels: labels}
		r.counters[full] = c
	}
	return &c.Counter
}
