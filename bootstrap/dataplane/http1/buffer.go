package http1

import (
	"bufio"
	"io"
	"sync"
)

// Buffers of connections are lent, so that idle connections hold none.

const bufferSize = 16 << 10

var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, bufferSize) }}
	writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, bufferSize) }}
)

// Reader lends a buffered reader on r.
func Reader(r io.Reader) *bufio.Reader {
	br := readers.Get().(*bufio.Reader)
	br.Reset(r)
	return br
}

// Writer lends a buffered writer on w.
func Writer(w io.Writer) *bufio.Writer {
	bw := writers.Get().(*bufio.Writer)
	bw.Reset(w)
	return bw
}

// FreeReader takes a reader back, which nobody may use any more.
func FreeReader(br *bufio.Reader) {
	br.Reset(nil)
	readers.Put(br)
}

// FreeWriter takes a writer back, which nobody may use any more.
func FreeWriter(bw *bufio.Writer) {
	bw.Reset(nil)
	writers.Put(bw)
}
