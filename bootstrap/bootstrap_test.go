package bootstrap_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ropes-dev/ropes/bootstrap"
)

func TestRunUndoesInReverseWhatCameBeforeAFailure(t *testing.T) {
	var undone, seen []string
	step := func(name string, err error) bootstrap.Step {
		return bootstrap.Step{
			Name: name,
			Do:   func(context.Context, func(string)) error { return err },
			Undo: func(context.Context) error { undone = append(undone, name); return nil },
		}
	}
	boom := errors.New("boom")
	obs := bootstrap.ObserverFunc(func(e bootstrap.Event) { seen = append(seen, e.Phase+" "+string(e.State)) })
	steps := []bootstrap.Step{step("a", nil), step("b", bootstrap.ErrSkip), step("c", boom), step("d", nil)}
	err := bootstrap.Run(t.Context(), steps, false, obs)
	if !errors.Is(err, boom) {
		t.Fatalf("got %v, want boom", err)
	}
	if diff := cmp.Diff([]string{"c", "b", "a"}, undone); diff != "" {
		t.Errorf("undone (-want +got):\n%s", diff)
	}
	want := []string{"a started", "a done", "b started", "b skipped", "c started", "c failed"}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestRunRetainsOnDemand(t *testing.T) {
	steps := []bootstrap.Step{{
		Name: "a",
		Do:   func(context.Context, func(string)) error { return errors.New("boom") },
		Undo: func(context.Context) error { t.Error("undone in spite of retain"); return nil },
	}}
	if err := bootstrap.Run(t.Context(), steps, true, bootstrap.Discard); err == nil {
		t.Error("a failed step went unreported")
	}
}

func TestRunUndoesAfterCancellation(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	undone := false
	steps := []bootstrap.Step{
		{
			Name: "a",
			Do:   func(context.Context, func(string)) error { cancel(); return nil },
			Undo: func(ctx context.Context) error { undone = ctx.Err() == nil; return nil },
		},
		{Name: "b", Do: func(context.Context, func(string)) error { t.Error("ran after the end"); return nil }},
	}
	if err := bootstrap.Run(ctx, steps, false, bootstrap.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the cancellation", err)
	}
	if !undone {
		t.Error("cleanup did not run under a living context")
	}
}

func TestPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		tries := 0
		notYet := errors.New("not yet")
		if err := bootstrap.Poll(ctx, time.Second, func(context.Context) error {
			if tries++; tries < 4 {
				return notYet
			}
			return nil
		}); err != nil || tries != 4 {
			t.Errorf("after %d tries: %v", tries, err)
		}
		err := bootstrap.Poll(ctx, time.Second, func(context.Context) error { return notYet })
		if !errors.Is(err, notYet) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the deadline and what was seen last", err)
		}
		boom := errors.New("boom")
		if err := bootstrap.Poll(ctx, time.Second, func(context.Context) error { return bootstrap.Permanent(boom) }); !errors.Is(err, boom) {
			t.Errorf("got %v, want the permanent error at once", err)
		}
	})
}
