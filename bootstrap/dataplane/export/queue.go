// Package export takes what the proxy has to tell, spans and access logs, to collectors: in batches, through the proxy's
// clusters, and never at the expense of the requests that it is about.
//
// It knows buffers and how to reach a collector by gRPC and HTTP. It does not know what is sent.
package export

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// Config says how a queue buffers and sends. Size, Dropped, Sent and Log are optional.
type Config[T any] struct {
	Name    string
	Every   time.Duration // something that waits is sent that long after it came
	Flush   int           // a buffer of this size is sent at once
	Limit   int           // what would make the buffer larger is dropped
	Size    func(T) int   // of one entry; 1 where nil
	Timeout time.Duration // of one batch, 0 for 5 seconds
	Send    func(context.Context, []T) error
	Sent    *stats.Counter
	Dropped *stats.Counter
	Log     *slog.Logger
}

// Queue is a bounded buffer of what is to be sent. Its goroutine lives only while there is something in it.
type Queue[T any] struct {
	cfg    Config[T]
	ctx    context.Context //nolint:containedctx // it bounds what the value itself started, not one call
	cancel context.CancelFunc
	wake   chan struct{}
	wg     sync.WaitGroup

	mu      sync.Mutex
	buf     []T
	size    int
	running bool
	closed  bool
}

// NewQueue returns an empty queue.
func NewQueue[T any](cfg Config[T]) *Queue[T] {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Size == nil {
		cfg.Size = func(T) int { return 1 }
	}
	q := &Queue[T]{cfg: cfg, wake: make(chan struct{}, 1)}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	return q
}

// Put takes one entry, or drops it where there is no room. It never waits.
func (q *Queue[T]) Put(t T) {
	n := q.cfg.Size(t)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.size+n > q.cfg.Limit {
		if q.cfg.Dropped != nil {
			q.cfg.Dropped.Inc()
		}
		return
	}
	q.buf, q.size = append(q.buf, t), q.size+n
	if !q.running {
		q.running = true
		q.wg.Go(q.run)
	}
	if q.size >= q.cfg.Flush {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
}

// run sends batches until the queue is empty.
func (q *Queue[T]) run() {
	for {
		t := time.NewTimer(q.cfg.Every)
		select {
		case <-t.C:
		case <-q.wake:
		case <-q.ctx.Done():
		}
		t.Stop()
		q.mu.Lock()
		batch := q.buf
		q.buf, q.size = nil, 0
		if len(batch) == 0 {
			q.running = false
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		q.send(batch)
	}
}

func (q *Queue[T]) send(batch []T) {
	// The last batch of a proxy that ends is sent too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(q.ctx), q.cfg.Timeout)
	defer cancel()
	if q.ctx.Err() != nil {
		ctx, cancel = context.WithTimeout(ctx, time.Second)
		defer cancel()
	}
	if err := q.cfg.Send(ctx, batch); err != nil {
		if q.cfg.Dropped != nil {
			q.cfg.Dropped.Add(uint64(len(batch)))
		}
		if q.cfg.Log != nil {
			q.cfg.Log.Debug("collector", "name", q.cfg.Name, "entries", len(batch), "err", err)
		}
		return
	}
	if q.cfg.Sent != nil {
		q.cfg.Sent.Add(uint64(len(batch)))
	}
}

// Close sends what is left and ends the queue.
func (q *Queue[T]) Close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.cancel()
	q.wg.Wait()
}
