package netpol

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// recorder stands for the kernel.
type recorder struct {
	applied []*Ruleset
	fail    error
	warned  []Warning
}

// underTest runs an enforcer in the bubble until the test ends. The snapshot is read
// from *s each time.
func underTest(t *testing.T, s *Snapshot) (*enforcer, *recorder) {
	t.Helper()
	r := &recorder{}
	e := newEnforcer(slog.New(slog.DiscardHandler))
	e.snapshot = func() Snapshot { return *s }
	e.apply = func(_ context.Context, rules *Ruleset) error {
		if r.fail == nil {
			r.applied = append(r.applied, rules)
		}
		return r.fail
	}
	e.warn = func(_ context.Context, w Warning) { r.warned = append(r.warned, w) }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); e.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return e, r
}

func TestChangesComeTogetherWithinAHundredMilliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := cluster()
		e, r := underTest(t, &s)
		if len(r.applied) != 1 || !e.ready.Load() {
			t.Fatalf("at the start: applied %d times, ready %t", len(r.applied), e.ready.Load())
		}
		s.Policies = append(s.Policies, policy(t, "deny", `podSelector: {}`))
		for range 10 {
			e.touch()
			time.Sleep(4 * time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if len(r.applied) != 2 {
			t.Fatalf("ten events made %d changes of the rules, want one", len(r.applied)-1)
		}
		if r.applied[1].allows(b1, a1, corev1.ProtocolTCP, 80) {
			t.Error("the policy is not in the rules")
		}
	})
}

func TestEventsThatChangeNothingTouchNoRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := cluster(policy(t, "deny", `podSelector: {}`))
		e, r := underTest(t, &s)
		for range 5 {
			e.touch()
			time.Sleep(time.Second)
		}
		if len(r.applied) != 1 {
			t.Errorf("applied %d times", len(r.applied))
		}
	})
}

func TestFailureIsTriedAgainAndShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := cluster()
		e, r := underTest(t, &s)
		r.fail = errors.New("nft is busy")
		s.Policies = append(s.Policies, policy(t, "deny", `podSelector: {}`))
		e.touch()
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if e.ready.Load() {
			t.Error("ready although the rules are not in place")
		}
		r.fail = nil
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !e.ready.Load() || len(r.applied) != 2 {
			t.Errorf("after a retry: ready %t, applied %d times", e.ready.Load(), len(r.applied))
		}
	})
}

func TestRulesAreRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := cluster()
		_, r := underTest(t, &s)
		time.Sleep(3*refresh + time.Second)
		synctest.Wait()
		if len(r.applied) != 4 {
			t.Errorf("applied %d times in three refreshes", len(r.applied))
		}
	})
}

func TestWarningsAreToldOncePerChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := cluster(policy(t, "six", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "2001:db8::/32"}}]}]}`))
		e, r := underTest(t, &s)
		e.touch()
		time.Sleep(time.Second)
		synctest.Wait()
		if len(r.warned) != 1 || r.warned[0].Policy != "six" {
			t.Errorf("warned %v", r.warned)
		}
	})
}
