package dataplane

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A sidecar's heap is a few megabytes, so that under load Go's collector would run a hundred times a second. What lets it
// run less often is memory, which an idle sidecar should not hold: the target follows the load.
const (
	calm, busy = 100, 400 // percent, as GOGC
	lookEvery  = 500 * time.Millisecond
	// Collections in lookEvery that make the proxy busy, and at the busy setting those that keep it so.
	hurried, hurriedStill = 5, 1
)

// tuneGC sets the collector's target by how often it ran, until ctx ends. It leaves a GOGC that somebody has chosen.
func tuneGC(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	sample := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	read := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	g := governor{last: read()}
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		switch g.look(read()) {
		case toBusy:
			debug.SetGCPercent(busy)
		case toCalm:
			debug.SetGCPercent(calm)
			runtime.GC() // what the load has left is given back
		}
	}
}

// governor decides from the number of collections when the target has to change.
type governor struct {
	last  uint64
	busy  bool
	quiet int // looks in a row that saw no hurry
}

type change int

const (
	keep change = iota
	toBusy
	toCalm
)

// patience is how many quiet looks end a busy time.
const patience = 20

func (g *governor) look(cycles uint64) change {
	ran := cycles - g.last
	g.last = cycles
	switch {
	case !g.busy && ran >= hurried:
		g.busy, g.quiet = true, 0
		return toBusy
	case g.busy && ran >= hurriedStill:
		g.quiet = 0
	case g.busy:
		if g.quiet++; g.quiet >= patience {
			g.busy = false
			return toCalm
		}
	}
	return keep
}
