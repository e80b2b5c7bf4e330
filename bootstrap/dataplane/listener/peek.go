package listener

import (
	"net"
	"time"
)

// maxPeek bounds what the inspectors look at; a client hello or request line that is longer stays undetected.
const maxPeek = 64 << 10

// peeked is a connection whose first bytes were looked at and are read again by whoever comes next.
type peeked struct {
	net.Conn
	buf []byte
	off int
}

// more reads further bytes into the buffer. It reports whether the connection can give more.
func (p *peeked) more() error {
	if len(p.buf) == cap(p.buf) {
		grown := make([]byte, len(p.buf), max(1024, 2*cap(p.buf)))
		copy(grown, p.buf)
		p.buf = grown
	}
	n, err := p.Conn.Read(p.buf[len(p.buf):cap(p.buf)])
	p.buf = p.buf[:len(p.buf)+n]
	if n > 0 {
		return nil
	}
	return err
}

// Read implements net.Conn.
func (p *peeked) Read(b []byte) (int, error) {
	if p.off < len(p.buf) {
		n := copy(b, p.buf[p.off:])
		p.off += n
		if p.off == len(p.buf) {
			p.buf, p.off = nil, 0
		}
		return n, nil
	}
	return p.Conn.Read(b)
}

// NetConn gives the socket beneath.
func (p *peeked) NetConn() net.Conn { return p.Conn }

// CloseWrite passes on the end of a stream.
func (p *peeked) CloseWrite() error {
	if cw, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

var noDeadline time.Time
