package servers

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// loadOrder is a steady stream of requests: the orders in turn, Rate per second, Count in all.
type loadOrder struct {
	Orders []order
	Rate   float64
	Count  int
}

// loadOutcome is how far a load has come.
type loadOutcome struct {
	Sent, Done, Failed int
	Failures           []string // the first ones: when, which, what
	TookMS             float64
	SlowestMS          float64
	Finished           bool
}

// relayLoad sends requests at a steady rate, over kept-alive connections, and writes a line of JSON several times a
// second. A request fails when it gets no whole answer with a status below 400. The load ends early with the client.
func relayLoad(w http.ResponseWriter, r *http.Request) {
	var o loadOrder
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil || o.Rate <= 0 || len(o.Orders) == 0 {
		http.Error(w, fmt.Sprintf("an order with a rate and requests is wanted: %v", err), http.StatusBadRequest)
		return
	}
	l := &load{began: time.Now()}
	done := make(chan struct{})
	go func() { //nolint:contextcheck // it is the request's
		defer close(done)
		l.run(r.Context(), &o)
	}()
	enc := json.NewEncoder(w)
	say := func(finished bool) {
		out := l.snapshot()
		out.Finished = finished
		_ = enc.Encode(out) // where it fails, the context ends
		_ = http.NewResponseController(w).Flush()
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			say(false)
		case <-done:
			say(true)
			return
		}
	}
}

type load struct {
	began time.Time
	mu    sync.Mutex
	state loadOutcome
}

func (l *load) snapshot() loadOutcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.state
	out.Failures = append([]string(nil), out.Failures...)
	out.TookMS = float64(time.Since(l.began).Microseconds()) / 1000
	return out
}

func (l *load) run(ctx context.Context, o *loadOrder) {
	transports := make([]*http.Transport, len(o.Orders))
	for i := range o.Orders {
		t, err := o.Orders[i].transport()
		if err != nil {
			l.note(0, &o.Orders[i], &outcome{Err: err.Error()})
			return
		}
		defer t.CloseIdleConnections()
		transports[i] = t
	}
	every := time.Duration(float64(time.Second) / o.Rate)
	next := l.began
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range o.Count {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)):
		}
		next = next.Add(every)
		at := i % len(o.Orders)
		l.mu.Lock()
		l.state.Sent++
		l.mu.Unlock()
		wg.Go(func() { l.note(i, &o.Orders[at], o.Orders[at].do(ctx, transports[at])) })
	}
}

func (l *load) note(i int, o *order, got *outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Done++
	l.state.SlowestMS = max(l.state.SlowestMS, got.TookMS)
	if got.Err == "" && got.Status >= 200 && got.Status < 400 {
		return
	}
	l.state.Failed++
	if len(l.state.Failures) < 20 {
		l.state.Failures = append(l.state.Failures, fmt.Sprintf("%.2fs #%d %s %s: status %d after %.0fms, %s, %.200q",
			time.Since(l.began).Seconds(), i, o.Method, o.URL, got.Status, got.TookMS, got.Err, got.Body))
	}
}
