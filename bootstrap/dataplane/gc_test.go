package dataplane

import "testing"

func TestGovernor(t *testing.T) {
	var g governor
	cycles := uint64(0)
	step := func(ran uint64, want change) {
		t.Helper()
		cycles += ran
		if got := g.look(cycles); got != want {
			t.Errorf("after %d collections: %v, want %v", ran, got, want)
		}
	}
	step(hurried-1, keep) // a configuration update is no load
	step(hurried, toBusy)
	step(hurried, keep)
	for range patience - 1 {
		step(0, keep)
	}
	step(hurriedStill, keep) // load again, in time
	for range patience - 1 {
		step(0, keep)
	}
	step(0, toCalm)
	step(1, keep)
	step(hurried, toBusy)
}
