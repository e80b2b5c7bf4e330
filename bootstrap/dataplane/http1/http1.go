// Package http1 is the HTTP/1 codec of both sides of the proxy: message heads into net/http's types and back, and
// message bodies.
//
// It is strict where two parsers could disagree about where a message ends: both framings at once, two lengths, codings
// other than chunked, folded lines, white space before a colon, control characters and lone carriage returns are
// errors. It does not know connections, deadlines or what a message means.
package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// Errors of heads. These have answers of their own; everything else is a *SyntaxError or comes from
// the reader.
var (
	ErrTooLarge = errors.New("message head too large")
	ErrVersion  = errors.New("HTTP/1.1 is required")
	ErrCoding   = errors.New("unsupported transfer coding")
)

// SyntaxError is a message that is not HTTP, or not HTTP that can be passed on safely.
type SyntaxError struct{ What string }

// Error implements error.
func (e *SyntaxError) Error() string { return e.What }

func bad(what string) error { return &SyntaxError{what} }

// maxHeaders bounds the number of header lines, as Envoy does by default.
const maxHeaders = 100

// readHead takes a message head off br, up to and with the empty line that ends it, or the empty line alone where there
// are no lines before it. It takes not a byte of what follows.
func readHead(br *bufio.Reader, limit int) (string, error) {
	for want := 1; ; {
		_, err := br.Peek(want)
		b, _ := br.Peek(br.Buffered())
		if end := headEnd(b); end > 0 {
			if end > limit {
				return "", ErrTooLarge
			}
			head := string(b[:end])
			_, _ = br.Discard(end)
			return head, nil
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return readLongHead(br, limit)
		case err == io.EOF && len(b) > 0:
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		case len(b) > limit:
			return "", ErrTooLarge
		}
		want = br.Buffered() + 1
	}
}

// readLongHead reads a head that does not fit into br's buffer.
func readLongHead(br *bufio.Reader, limit int) (string, error) {
	var head []byte
	for {
		if _, err := br.Peek(1); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		b, _ := br.Peek(br.Buffered())
		from := max(len(head)-2, 0)
		head = append(head, b...)
		if end := emptyLine(head[from:]); end > 0 {
			end += from
			if end > limit {
				return "", ErrTooLarge
			}
			_, _ = br.Discard(len(b) - (len(head) - end))
			return string(head[:end]), nil
		}
		if len(head) > limit {
			return "", ErrTooLarge
		}
		_, _ = br.Discard(len(b))
	}
}

// headEnd returns the length of the head at the start of b, 0 where its end is not in b.
func headEnd(b []byte) int {
	if len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
		return 2
	}
	if len(b) >= 1 && b[0] == '\n' {
		return 1
	}
	return emptyLine(b)
}

// emptyLine returns the length of b up to and with the first empty line after another line, 0 where there is none.
func emptyLine(b []byte) int {
	for i := 0; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0
		}
		i += n + 1
		switch {
		case i < len(b) && b[i] == '\n':
			return i + 1
		case i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n':
			return i + 2
		}
	}
}
