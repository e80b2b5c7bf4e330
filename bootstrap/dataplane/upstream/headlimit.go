package upstream

import (
	"errors"
	"net"
)

// ErrHeadTooLarge says that a message head is longer than allowed.
var ErrHeadTooLarge = errors.New("message head too large")

// HeadLimit bounds the bytes that one message head may take off a connection.
type HeadLimit struct {
	net.Conn
	left int // negative: no limit
}

// NewHeadLimit returns a reader on c without a limit in force.
func NewHeadLimit(c net.Conn) *HeadLimit { return &HeadLimit{Conn: c, left: -1} }

// Begin allows n bytes until End is called.
func (l *HeadLimit) Begin(n int) { l.left = n }

// End lifts the limit.
func (l *HeadLimit) End() { l.left = -1 }

// Read implements io.Reader.
func (l *HeadLimit) Read(p []byte) (int, error) {
	if l.left == 0 {
		return 0, ErrHeadTooLarge
	}
	if l.left > 0 && len(p) > l.left {
		p = p[:l.left]
	}
	n, err := l.Conn.Read(p)
	if l.left > 0 {
		l.left -= n
	}
	return n, err
}
