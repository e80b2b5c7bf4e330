package checks

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// runs records when, since the start of the bubble, runs began.
func runs(t *testing.T, s schedule, takes time.Duration, length time.Duration, changes ...time.Duration) (started, finished []time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), length)
		defer cancel()
		changed := make(chan struct{}, 1)
		go func() {
			for _, at := range changes {
				time.Sleep(at - time.Since(start))
				select {
				case changed <- struct{}{}:
				default:
				}
			}
		}()
		s.loop(ctx, changed, func(ctx context.Context) {
			started = append(started, time.Since(start))
			if takes == 0 || sleep(ctx, takes) {
				finished = append(finished, time.Since(start))
			}
		})
		time.Sleep(time.Hour)
	})
	return started, finished
}

const ms = time.Millisecond

func TestScheduleBurstIsOneRun(t *testing.T) {
	got, _ := runs(t, objectSchedule, 0, 10*time.Second, 1000*ms, 1010*ms, 1020*ms, 1049*ms)
	if d := cmp.Diff([]time.Duration{0, 1050 * ms}, got); d != "" {
		t.Error(d)
	}
}

func TestScheduleSettlesAndTicks(t *testing.T) {
	got, _ := runs(t, probeSchedule, 0, 16*time.Second, 6*time.Second)
	want := []time.Duration{0, 300 * ms, 1000 * ms, 2000 * ms, 4000 * ms, 6050 * ms, 6300 * ms, 7000 * ms, 8000 * ms, 10000 * ms, 15000 * ms}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestScheduleBreaksOffStaleRun(t *testing.T) {
	s := schedule{debounce: 50 * ms, tick: time.Minute}
	started, finished := runs(t, s, time.Second, 10*time.Second, 400*ms)
	if d := cmp.Diff([]time.Duration{0, 450 * ms}, started); d != "" {
		t.Errorf("started: %s", d)
	}
	if d := cmp.Diff([]time.Duration{1450 * ms}, finished); d != "" {
		t.Errorf("finished: %s", d)
	}
}

func TestScheduleSurvivesConstantChange(t *testing.T) {
	var changes []time.Duration
	for at := 100 * ms; at < 9*time.Second; at += 100 * ms {
		changes = append(changes, at)
	}
	_, finished := runs(t, schedule{debounce: 50 * ms, tick: time.Minute}, time.Second, 10*time.Second, changes...)
	if len(finished) < 4 {
		t.Errorf("finished %v: constant change starves the check", finished)
	}
}
