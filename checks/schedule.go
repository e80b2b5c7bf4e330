package checks

import (
	"context"
	"time"
)

// schedule decides when a check is run again while it is watched.
type schedule struct {
	debounce time.Duration   // from the first change to the run, so that a burst is one run
	settle   []time.Duration // after a change, when to run again: data planes lag behind objects
	tick     time.Duration   // and when nothing changes at all
}

// The schedules. A check over objects alone is decided by its API events; its tick only
// bounds how long a lost event can go unnoticed.
var (
	objectSchedule = schedule{debounce: 50 * time.Millisecond, tick: 30 * time.Second}
	probeSchedule  = schedule{
		debounce: 50 * time.Millisecond,
		settle:   []time.Duration{300 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second},
		tick:     5 * time.Second,
	}
)

// maxOvertaken is how often in a row a run may be broken off because of a newer change
// before one is let to its end.
const maxOvertaken = 3

// loop runs at once, after each change, while the change settles and on every tick, until
// ctx ends. A run during which another change comes is broken off: its answer is out of
// date. run reports only what it finished.
func (s schedule) loop(ctx context.Context, changed <-chan struct{}, run func(context.Context)) {
	var (
		since     = time.Now() // the last change
		settled   int          // entries of settle that are done
		overtaken int
	)
	for {
		again := s.runUntilChange(ctx, changed, overtaken < maxOvertaken, run)
		if again {
			overtaken++
		} else {
			overtaken = 0
			again = s.wait(ctx, changed, since, &settled)
		}
		if ctx.Err() != nil {
			return
		}
		if !again {
			continue
		}
		since, settled = time.Now(), 0
		if !sleep(ctx, s.debounce) {
			return
		}
		select {
		case <-changed: // part of the same burst
		default:
		}
	}
}

// runUntilChange tells whether a change broke the run off.
func (s schedule) runUntilChange(ctx context.Context, changed <-chan struct{}, breakOff bool, run func(context.Context)) bool {
	runCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(runCtx)
	}()
	if !breakOff {
		<-done
		return false
	}
	select {
	case <-done:
		return false
	case <-changed:
		cancel()
		<-done
		return true
	}
}

// wait returns true upon a change, false when the next run is due or ctx has ended.
func (s schedule) wait(ctx context.Context, changed <-chan struct{}, since time.Time, settled *int) bool {
	due := s.tick
	now := time.Since(since)
	for *settled < len(s.settle) && s.settle[*settled] <= now {
		*settled++
	}
	if *settled < len(s.settle) {
		due = s.settle[*settled] - now
	}
	t := time.NewTimer(due)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-changed:
		return true
	case <-t.C:
		return false
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
