package hcm

import (
	"io"
	"net/http"
	"sync"
)

// maxReplay is how much of a request body is kept for retries, Envoy's default buffer limit.
const maxReplay = 1 << 20

// replayBody lets several attempts read one request body, one after the other: what was read is kept until it is too
// much. No lock is held while the client is read, who may take as long as he likes.
type replayBody struct {
	src  io.ReadCloser
	mu   sync.Mutex
	wake sync.Cond // the end of a read, or of an attempt
	kept []byte
	keep bool
	over bool // bytes were read that are not kept
	err  error
	turn int  // the attempt whose reader may read
	read bool // somebody reads src
}

func newReplayBody(src io.ReadCloser, keep bool) *replayBody {
	b := &replayBody{src: src, keep: keep}
	b.wake.L = &b.mu
	return b
}

// canReplay reports whether another attempt would see the whole body.
func (b *replayBody) canReplay() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.keep && !b.over
}

// retire takes the body away from the attempt that has it, unless another would not see the whole of it. It reports
// whether it did.
func (b *replayBody) retire() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.keep || b.over {
		return false
	}
	b.turn++
	b.wake.Broadcast()
	return true
}

// busy reports whether somebody waits for the client.
func (b *replayBody) busy() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read
}

// reader starts the next attempt; readers of older attempts get nothing more.
func (b *replayBody) reader() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn++
	b.wake.Broadcast()
	return &attemptBody{b: b, turn: b.turn}
}

// attemptBody is one attempt's view of the body, from its start.
type attemptBody struct {
	b    *replayBody
	turn int
	pos  int
}

// Read implements io.Reader.
func (a *attemptBody) Read(p []byte) (int, error) {
	b := a.b
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case a.turn != b.turn:
			return 0, http.ErrBodyReadAfterClose
		case a.pos < len(b.kept):
			n := copy(p, b.kept[a.pos:])
			a.pos += n
			return n, nil
		case b.err != nil:
			return 0, b.err
		case !b.read:
			return a.next(p)
		}
		b.wake.Wait() // for what an attempt before this one still reads
	}
}

// next reads on from the client. The caller holds the lock.
func (a *attemptBody) next(p []byte) (int, error) {
	b := a.b
	b.read = true
	b.mu.Unlock()
	n, err := b.src.Read(p)
	b.mu.Lock()
	b.read, b.err = false, err
	b.wake.Broadcast()
	late := a.turn != b.turn
	switch {
	case !b.keep, b.over:
		b.over = b.over || n > 0
	case len(b.kept)+n > maxReplay && !late:
		b.over, b.kept, a.pos = true, nil, 0
	default:
		b.kept = append(b.kept, p[:n]...) // of a late read too, however much it is: the next attempt counts on it
		a.pos += n
	}
	if late {
		return 0, http.ErrBodyReadAfterClose
	}
	return n, err
}

// Close implements io.Closer. The client's body is closed by its own codec.
func (a *attemptBody) Close() error { return nil }
