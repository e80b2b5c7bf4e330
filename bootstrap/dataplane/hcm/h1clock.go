package hcm

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// watchAfter is how long a request may take before somebody looks whether its client is still there.
const watchAfter = 50 * time.Millisecond

// h1Clock is the one timer of an HTTP/1 connection: it closes the connection when it was idle for too long, and notices
// a client that goes away while it waits for a response. A timer that is due later than it has to be is the only one
// that is set anew, so that a busy connection touches it every 50 ms, not at every request.
type h1Clock struct {
	s     *h1Server
	timer *time.Timer

	mu      sync.Mutex
	due     time.Time // when the timer fires; zero for never
	since   time.Time // when the request began or the connection came to rest
	stream  *Stream   // the request in progress
	stopped bool
	done    chan struct{} // closed by the watcher at its end; nil where none runs
}

func (k *h1Clock) start(s *h1Server) {
	k.s, k.since = s, time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	first := k.s.m.idle
	if first <= 0 {
		first = time.Hour // begin will set it
	}
	k.due = k.since.Add(first)
	k.timer = time.AfterFunc(first, k.fire)
}

func (k *h1Clock) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stopped = true
	k.timer.Stop()
}

// begin notes that st has the connection.
func (k *h1Clock) begin(st *Stream) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stream, k.since = st, st.start
	k.setWithin(st.start, watchAfter)
}

// setWithin makes the timer fire d after now, or sooner. The caller holds mu.
func (k *h1Clock) setWithin(now time.Time, d time.Duration) {
	if at := now.Add(d); k.due.IsZero() || k.due.After(at) {
		k.due = at
		k.timer.Reset(d)
	}
}

// end notes that the request is over.
func (k *h1Clock) end() {
	k.mu.Lock()
	k.stream = nil
	k.mu.Unlock()
	k.blind()
}

// leave lets the connection go on as it likes, to whoever takes its bytes from now on.
func (k *h1Clock) leave() {
	k.stop()
	k.blind()
}

// blind waits for the end of whoever watches the client.
func (k *h1Clock) blind() {
	k.mu.Lock()
	done := k.done
	k.mu.Unlock()
	if done == nil {
		return
	}
	_ = k.s.c.SetReadDeadline(time.Unix(1, 0))
	<-done
	_ = k.s.c.SetReadDeadline(time.Time{})
	k.mu.Lock()
	k.done = nil
	k.mu.Unlock()
}

// rest notes that the connection waits for the next request.
func (k *h1Clock) rest() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.since = time.Now()
	if idle := k.s.m.idle; idle > 0 {
		k.setWithin(k.since, idle)
	}
}

// cancel ends the request in progress.
func (k *h1Clock) cancel(cause error) {
	k.mu.Lock()
	st := k.stream
	k.mu.Unlock()
	if st != nil {
		st.stop(cause)
	}
}

func (k *h1Clock) fire() {
	k.mu.Lock()
	k.due = time.Time{}
	if k.stopped {
		k.mu.Unlock()
		return
	}
	now := time.Now()
	if k.stream == nil {
		if idle := k.s.m.idle; idle > 0 {
			if left := idle - now.Sub(k.since); left > 0 {
				k.setWithin(now, left)
			} else {
				_ = k.s.c.SetReadDeadline(time.Unix(1, 0))
			}
		}
		k.mu.Unlock()
		return
	}
	st := k.stream
	if left := watchAfter - now.Sub(k.since); left > 0 || st.received.ended.Load() == nil {
		// The request is young, or somebody reads its body and will notice.
		k.setWithin(now, max(left, watchAfter/2))
		k.mu.Unlock()
		return
	}
	done := make(chan struct{})
	k.done = done
	k.mu.Unlock()
	defer close(done)
	var ne net.Error
	if _, err := k.s.br.Peek(1); err != nil && (!errors.As(err, &ne) || !ne.Timeout()) {
		st.stop(context.Canceled)
	}
}
