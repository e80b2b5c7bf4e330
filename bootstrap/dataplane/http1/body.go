package http1

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
)

// fixed is a body of known length.
type fixed struct {
	br   *bufio.Reader
	left int64
}

// Read implements io.Reader.
func (b *fixed) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.br.Read(p)
	b.left -= int64(n)
	switch {
	case err == io.EOF && b.left > 0:
		err = io.ErrUnexpectedEOF
	case err == nil && b.left == 0:
		err = io.EOF
	}
	return n, err
}

// Close implements io.Closer. What is left stays on the connection.
func (b *fixed) Close() error { return nil }

// rest2end is a body that ends with its connection.
type rest2end struct{ br *bufio.Reader }

// Read implements io.Reader.
func (b *rest2end) Read(p []byte) (int, error) { return b.br.Read(p) }

// Close implements io.Closer.
func (b *rest2end) Close() error { return nil }

// chunked is a body in chunks, with its trailers.
type chunked struct {
	br      *bufio.Reader
	src     io.Reader
	limit   int // of the trailers
	trailer func(http.Header)
	err     error
}

func newChunked(br *bufio.Reader, limit int, trailer func(http.Header)) *chunked {
	// Its reader takes a *bufio.Reader as it is and never a byte beyond the last chunk's line.
	return &chunked{br: br, src: httputil.NewChunkedReader(br), limit: limit, trailer: trailer}
}

// Read implements io.Reader.
func (b *chunked) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.src.Read(p)
	if errors.Is(err, io.EOF) {
		err = b.readTrailer()
	}
	b.err = err
	return n, err
}

func (b *chunked) readTrailer() error {
	text, err := readHead(b.br, b.limit)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if strings.Count(text, "\n") != strings.Count(text, "\r\n") {
		return bad("trailer with a lone line feed") // as strict as the chunks before it
	}
	h, err := parseHeader(text)
	if err != nil {
		return err
	}
	for name := range h {
		if IsHop(name) || name == "Host" {
			return bad("trailer that frames or routes")
		}
	}
	if len(h) > 0 {
		b.trailer(h)
	}
	return io.EOF
}

// Close implements io.Closer. What is left stays on the connection.
func (b *chunked) Close() error { return nil }
