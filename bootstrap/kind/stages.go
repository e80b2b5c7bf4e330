package kind

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	kindlog "sigs.k8s.io/kind/pkg/log"

	"github.com/ropes-dev/ropes/bootstrap"
)

// stage is one of kind's steps: how kind begins its line on it, and what we call it.
type stage struct{ said, name string }

// stages are kind's steps in their order. Some are left out, by kind's configuration.
var stages = []stage{
	{"Preparing nodes", "node containers"},
	{"Writing configuration", "node configuration"},
	{"Starting control-plane", "control plane"},
	{"Installing CNI", "pod network"},
	{"Installing StorageClass", "kind's storage class"},
	{"Joining worker nodes", "workers"},
}

// creation is a run of kind that makes a cluster. Its log is where its steps show.
type creation struct {
	log *slog.Logger

	mu       sync.Mutex
	begun    int // index of the latest stage begun; -1 before the first
	ended    map[int]bool
	finished bool
	err      error
	changed  chan struct{} // closed and made anew at each change
}

func begin(log *slog.Logger, create func(kindlog.Logger) error) *creation {
	c := &creation{log: log, begun: -1, ended: map[int]bool{}, changed: make(chan struct{})}
	go func() {
		err := create(c)
		c.change(func() { c.finished, c.err = true, err })
	}()
	return c
}

func (c *creation) change(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
	close(c.changed)
	c.changed = make(chan struct{})
}

// heard takes in one of kind's lines.
func (c *creation) heard(line string) {
	line = strings.TrimSpace(line)
	mark, rest, _ := strings.Cut(line, " ")
	i := slices.IndexFunc(stages, func(s stage) bool { return strings.HasPrefix(strings.TrimSpace(rest), s.said) })
	if i < 0 {
		return
	}
	switch mark {
	case "•":
		c.change(func() { c.begun = max(c.begun, i) })
	case "✓":
		c.change(func() { c.ended[i] = true })
	}
}

// await returns when the stage is over: nil where kind did it, ErrSkip where kind went
// past it, and kind's error where it failed.
func (c *creation) await(ctx context.Context, i int) error {
	for {
		c.mu.Lock()
		ended, begun, finished, err, changed := c.ended[i], c.begun, c.finished, c.err, c.changed
		c.mu.Unlock()
		switch {
		case ended:
			return nil
		case finished && err != nil:
			return err
		case finished || begun > i:
			return bootstrap.ErrSkip
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

// wait returns when kind is done, with its error.
func (c *creation) wait(ctx context.Context) error {
	for {
		c.mu.Lock()
		finished, err, changed := c.finished, c.err, c.changed
		c.mu.Unlock()
		if finished {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

var _ kindlog.Logger = (*creation)(nil)

// Warn implements kind's Logger.
func (c *creation) Warn(message string) { c.log.Warn(strings.TrimSpace(message)) }

// Warnf implements kind's Logger.
func (c *creation) Warnf(format string, args ...any) { c.Warn(fmt.Sprintf(format, args...)) }

// Error implements kind's Logger.
func (c *creation) Error(message string) { c.log.Error(strings.TrimSpace(message)) }

// Errorf implements kind's Logger.
func (c *creation) Errorf(format string, args ...any) { c.Error(fmt.Sprintf(format, args...)) }

// V implements kind's Logger. Steps are told at level 0.
func (c *creation) V(level kindlog.Level) kindlog.InfoLogger { return infoLogger{c, level} }

type infoLogger struct {
	c     *creation
	level kindlog.Level
}

// Info implements kind's InfoLogger.
func (l infoLogger) Info(message string) {
	l.c.log.Debug(strings.TrimSpace(message))
	if l.level == 0 {
		l.c.heard(message)
	}
}

// Infof implements kind's InfoLogger.
func (l infoLogger) Infof(format string, args ...any) { l.Info(fmt.Sprintf(format, args...)) }

// Enabled implements kind's InfoLogger.
func (l infoLogger) Enabled() bool { return true }
