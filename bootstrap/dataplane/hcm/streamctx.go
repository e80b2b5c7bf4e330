package hcm

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// streamContext is the context of one stream. It does what one of context.WithCancelCause does, and costs nothing until
// somebody waits for it: no channel, no entry at a parent. Its Err is the cause of its end.
type streamContext struct {
	conn  *network.Conn
	trace *upstream.Trace // of the latest attempt

	mu      sync.Mutex
	err     error
	done    chan struct{} // made when somebody asks
	after   []*func()
	aborter upstream.Aborter
}

var (
	_      context.Context    = (*streamContext)(nil)
	_      upstream.Abortable = (*streamContext)(nil)
	closed                    = func() chan struct{} { c := make(chan struct{}); close(c); return c }()
)

// Deadline implements context.Context: limits are timers that call stop.
func (c *streamContext) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context.
func (c *streamContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		if c.err != nil {
			c.done = closed
		} else {
			c.done = make(chan struct{})
		}
	}
	return c.done
}

// Err implements context.Context. It is nil or what stop was called with.
func (c *streamContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Value implements context.Context.
func (c *streamContext) Value(key any) any {
	if key == (connKey{}) {
		return c.conn
	}
	return nil
}

// UpstreamTrace implements upstream.Abortable.
func (c *streamContext) UpstreamTrace() *upstream.Trace { return c.trace }

// AfterFunc lets package context hang functions and child contexts on c without a goroutine for each.
func (c *streamContext) AfterFunc(f func()) func() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	entry := &f
	c.after = append(c.after, entry)
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		i := slices.Index(c.after, entry)
		if i < 0 {
			return false
		}
		c.after = slices.Delete(c.after, i, i+1)
		return true
	}
}

// Attach implements upstream.Abortable.
func (c *streamContext) Attach(a upstream.Aborter) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.aborter != nil {
		return false
	}
	c.aborter = a
	return true
}

// Detach implements upstream.Abortable.
func (c *streamContext) Detach(a upstream.Aborter) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.aborter != a {
		return false
	}
	c.aborter = nil
	return true
}

// stop ends the stream for the given reason, once; nil stands for an orderly end.
func (c *streamContext) stop(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = cause
	done, after, aborter := c.done, c.after, c.aborter
	c.after, c.aborter = nil, nil
	c.mu.Unlock()
	if done != nil {
		close(done)
	}
	if aborter != nil {
		aborter.Abort()
	}
	for _, f := range after {
		go (*f)()
	}
}

// tryContext gives the context of one attempt: the stream's, where nothing bounds the attempt by itself.
func (s *Stream) tryContext(lim limits) (context.Context, context.CancelCauseFunc) {
	if lim.perTry <= 0 && lim.perTryIdle <= 0 {
		return s.ctx, func(error) {}
	}
	return context.WithCancelCause(s.ctx)
}

// newTrace begins the trace of an attempt. Whoever carries out the one before may still be writing to its own.
func (s *Stream) newTrace() {
	s.trace = &s.firstTrace
	if s.attempts > 1 {
		s.trace = &upstream.Trace{}
	}
	s.trace.Names, s.life.trace = s.names, s.trace
}

// traced gives a context for the attempt's round trip, which fills the trace.
func (s *Stream) traced(ctx context.Context) context.Context {
	if ctx == s.ctx {
		return ctx
	}
	return upstream.WithTrace(ctx, s.trace)
}
