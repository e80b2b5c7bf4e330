package cluster

import (
	"context"
	"errors"
	"net"
	"time"
)

// stagger is how long the next address of a host waits for the one before.
const stagger = 300 * time.Millisecond

// dialHost connects to e. A host that stands for several addresses is reached at the first that answers.
func dialHost(ctx context.Context, d *net.Dialer, e *Endpoint) (net.Conn, error) {
	list := e.addrs.Load()
	switch {
	case list == nil || len(*list) == 0:
		return d.DialContext(ctx, e.Network, e.Address)
	case len(*list) == 1:
		return d.DialContext(ctx, e.Network, (*list)[0])
	}
	return race(ctx, d, e.Network, interleave(*list))
}

// interleave makes address families take turns, that of the first address first.
func interleave(list []string) []string {
	is6 := func(a string) bool { return a[0] == '[' }
	var first, other []string
	for _, a := range list {
		if is6(a) == is6(list[0]) {
			first = append(first, a)
		} else {
			other = append(other, a)
		}
	}
	out := make([]string, 0, len(list))
	for i := range list {
		if i < len(first) {
			out = append(out, first[i])
		}
		if i < len(other) {
			out = append(out, other[i])
		}
	}
	return out
}

func race(ctx context.Context, d *net.Dialer, network string, list []string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c   net.Conn
		err error
	}
	results := make(chan result, len(list))
	dial := func(a string) {
		c, err := d.DialContext(ctx, network, a)
		results <- result{c, err}
	}
	tick := time.NewTimer(stagger)
	defer tick.Stop()
	go dial(list[0])
	started, ended := 1, 0
	var errs []error
	for {
		select {
		case r := <-results:
			ended++
			if r.err == nil {
				// Those that lose the race are cancelled; one that has won too late is closed.
				go func(left int) {
					for range left {
						if r := <-results; r.c != nil {
							_ = r.c.Close()
						}
					}
				}(started - ended)
				return r.c, nil
			}
			errs = append(errs, r.err)
			if ended == len(list) {
				return nil, errors.Join(errs...)
			}
			if started > ended {
				continue
			}
		case <-tick.C:
		}
		if started < len(list) {
			go dial(list[started])
			started++
			tick.Reset(stagger)
		}
	}
}
