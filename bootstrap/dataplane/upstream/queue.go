package upstream

import (
	"context"
	"sync"
	"time"
)

// queue holds the requests that wait for a connection because no more may be opened.
type queue struct {
	mu      sync.Mutex
	waiting []chan *h1Conn
}

// hand gives a connection to the request that waits longest; nil tells it to try to open one. It reports whether
// anybody waited.
func (q *queue) hand(c *h1Conn) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return false
	}
	w := q.waiting[0]
	q.waiting = q.waiting[1:]
	w <- c
	return true
}

func (q *queue) join() chan *h1Conn {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := make(chan *h1Conn, 1)
	q.waiting = append(q.waiting, w)
	return w
}

// leave takes w out. A connection that was handed over in the meantime is returned.
func (q *queue) leave(w chan *h1Conn) *h1Conn {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, x := range q.waiting {
		if x == w {
			q.waiting = append(q.waiting[:i:i], q.waiting[i+1:]...)
			return nil
		}
	}
	return <-w
}

// retryFull is how often a waiting request tries for a connection that another endpoint may have given up.
const retryFull = 25 * time.Millisecond

// wait queues for a connection; full is the error that said that there are too many.
func (p *H1) wait(ctx context.Context, full error) (*h1Conn, error) {
	if p.opts.Enqueue == nil {
		return nil, full
	}
	over, ok := p.opts.Enqueue()
	if !ok {
		return nil, full
	}
	defer over()
	tick := time.NewTicker(retryFull)
	defer tick.Stop()
	for {
		w := p.queue.join()
		select {
		case c := <-w:
			if c != nil {
				return c, nil
			}
		case <-tick.C:
			if c := p.queue.leave(w); c != nil {
				return c, nil
			}
		case <-ctx.Done():
			if c := p.queue.leave(w); c != nil {
				p.put(c)
			}
			return nil, failed(ctx, Connecting, ctx.Err())
		}
		c, err := p.connect(ctx)
		if err == nil || !p.opts.Full(err) {
			return c, err
		}
	}
}
