package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// report prints the table and the two lines that the data plane is judged by.
func (b *bench) report(memory string) {
	_, _ = fmt.Fprintf(b.out, "Medians of %d rounds of %v, %d connections, body of 512 bytes, access logs off everywhere.\n", b.rounds, b.each, b.conns)
	_, _ = fmt.Fprintf(b.out, "Client and server on CPU %s, proxies on CPU %s. Sidecars keep Istio's metrics and peer metadata; nginx keeps none.\n", b.front, b.back)
	_, _ = fmt.Fprintf(b.out, "\n%-32s %10s %9s %9s %11s   %9s %9s\n", "", "saturated", "", "", "proxy CPU", fmt.Sprintf("at %d/s", b.rate), "")
	_, _ = fmt.Fprintf(b.out, "%-32s %10s %9s %9s %11s   %9s %9s\n", "client to server", "requests/s", "p50 ms", "p99 ms", "µs/request", "p50 ms", "p99 ms")
	by := map[string]*scenario{}
	for _, s := range b.scenarios {
		by[s.name] = s
		_, _ = fmt.Fprintf(b.out, "%-32s %10.0f %9.2f %9.2f %11.1f   %9.2f %9.2f\n", s.name, s.rate(),
			ms(s.of(s.full, p50)), ms(s.of(s.full, p99)), float64(median(s.cost))/1000, ms(s.of(s.steady, p50)), ms(s.of(s.steady, p99)))
	}
	_, _ = fmt.Fprintf(b.out, "\n%s", memory)
	if p, n := by[onePlain], by[byNginx]; p != nil && n != nil {
		_, _ = fmt.Fprintf(b.out, "one plain hop / nginx, throughput: %.2f (aim: 0.60 or more)\n", p.rate()/n.rate())
	}
	if p, d := by[twoMTLS], by[direct]; p != nil && d != nil {
		added := make([]time.Duration, 0, b.rounds)
		for i := range p.steady {
			added = append(added, p.steady[i].p99-d.steady[i].p99)
		}
		_, _ = fmt.Fprintf(b.out, "p99 added by two mTLS hops at %d requests/s: %.2f ms (aim: 2 ms or less)\n", b.rate, ms(median(added)))
	}
}

// idleMemory says what a sidecar holds that nobody has talked through yet, and what each idle connection adds: one of a
// client, and what is left of its request's connection to the server.
func (b *bench) idleMemory() (string, error) {
	const n = 1000
	var text strings.Builder
	for _, s := range b.scenarios {
		if s.name != onePlain && s.name != twoMTLS {
			continue
		}
		port, p := s.port, s.proxies[len(s.proxies)-1]
		time.Sleep(2 * time.Second)
		own, all := p.memory()
		end, err := idle(port, n)
		if err != nil {
			end()
			return "", err
		}
		time.Sleep(2 * time.Second)
		with, _ := p.memory()
		end()
		_, _ = fmt.Fprintf(&text, "memory of the client's sidecar, %s: %.1f MB resident, %.1f MB its own; %.1f KB more for each idle connection of %d\n",
			s.name, mb(all), mb(own), (mb(with)-mb(own))*1024/n, n)
	}
	return text.String(), nil
}

func p50(l load) time.Duration { return l.p50 }
func p99(l load) time.Duration { return l.p99 }

func (s *scenario) of(ls []load, f func(load) time.Duration) time.Duration {
	var out []time.Duration
	for _, l := range ls {
		out = append(out, f(l))
	}
	return median(out)
}

func (s *scenario) rate() float64 {
	var out []float64
	for _, l := range s.full {
		out = append(out, l.rate)
	}
	return median(out)
}

func median[T cmp.Ordered](v []T) T {
	var zero T
	if len(v) == 0 {
		return zero
	}
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func mb(n uint64) float64        { return float64(n) / (1 << 20) }
