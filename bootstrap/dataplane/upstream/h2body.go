package upstream

import (
	"io"
	"net/http"
	"sync"
)

// looseBody is a request body whose Close ends a Read that waits, as the HTTP/2 client expects: it waits for the reader
// before it tells anybody that a stream has failed, and the reader may wait for a client that is silent. Read may not be
// called by two at a time.
type looseBody struct {
	src    io.ReadCloser
	once   sync.Once
	closed chan struct{}
	got    chan read // of the read under way

	buf     *[]byte // lent while there is something to read
	left    []byte  // of buf, not yet given out
	err     error   // what comes after left
	reading bool
}

type read struct {
	n   int
	err error
}

var looseBuffers = sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}

func newLooseBody(src io.ReadCloser) *looseBody {
	return &looseBody{src: src, closed: make(chan struct{}), got: make(chan read, 1)}
}

// Read implements io.Reader.
func (b *looseBody) Read(p []byte) (int, error) {
	if len(b.left) == 0 && b.err == nil {
		b.fill()
	}
	n := copy(p, b.left)
	if b.left = b.left[n:]; len(b.left) > 0 || b.err == nil {
		return n, nil
	}
	if b.buf != nil && !b.reading {
		looseBuffers.Put(b.buf)
		b.buf = nil
	}
	return n, b.err
}

// fill waits for the next piece of the body or for Close. What comes after Close is left to whoever else keeps the body.
func (b *looseBody) fill() {
	select {
	case <-b.closed:
		b.err = http.ErrBodyReadAfterClose
		return
	default:
	}
	if b.buf == nil {
		b.buf = looseBuffers.Get().(*[]byte)
	}
	b.reading = true
	go func(buf []byte) {
		n, err := b.src.Read(buf)
		b.got <- read{n, err}
	}(*b.buf)
	select {
	case r := <-b.got:
		b.reading, b.left, b.err = false, (*b.buf)[:r.n], r.err
	case <-b.closed:
		b.err = http.ErrBodyReadAfterClose // the buffer is still in use
	}
}

// Close implements io.Closer.
func (b *looseBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.src.Close()
}
