package hcm

import (
	"io"
	"net/http"
	"sync"
)

// maxReplay is how much of a request body is kept for retries, Envoy's default buffer limit.
const maxReplay = 1 << 20

// replayBody lets several attempts read one request body: what was read is kept until it is too much.
type replayBody struct {
	src  io.ReadCloser
	mu   sync.Mutex
	kept []byte
	keep bool
	over bool // bytes were read that are not kept
	err  error
	turn int // the attempt whose reader may read
}

func newReplayBody(src io.ReadCloser, keep bool) *replayBody {
	return &replayBody{src: src, keep: keep}
}

// canReplay reports whether another attempt would see the whole body.
func (b *replayBody) canReplay() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.keep && !b.over
}

// reader starts the next attempt; readers of older attempts get nothing more.
func (b *replayBody) reader() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn++
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
	if a.turn != b.turn {
		return 0, http.ErrBodyReadAfterClose
	}
	if a.pos < len(b.kept) {
		n := copy(p, b.kept[a.pos:])
		a.pos += n
		return n, nil
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.src.Read(p)
	b.err = err
	switch {
	case !b.keep, b.over:
		b.over = b.over || n > 0
	case len(b.kept)+n > maxReplay:
		b.over, b.kept, a.pos = true, nil, 0
	default:
		b.kept = append(b.kept, p[:n]...)
		a.pos += n
	}
	return n, err
}

// Close implements io.Closer. The client's body is closed by its own codec.
func (a *attemptBody) Close() error { return nil }
