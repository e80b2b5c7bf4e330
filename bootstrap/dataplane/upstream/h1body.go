package upstream

import (
	"io"
	"net/http"
	"sync"
)

// h1Body is a response body that gives the connection back to its pool at the end.
type h1Body struct {
	src     io.ReadCloser
	conn    *h1Conn
	written <-chan error // nil when the request is already written
	stop    func() bool
	keep    bool
	once    sync.Once
}

// Read implements io.Reader.
func (b *h1Body) Read(p []byte) (int, error) {
	n, err := b.src.Read(p)
	if err != nil {
		b.finish(err == io.EOF)
	}
	return n, err
}

// Close implements io.Closer. Closing before the end costs the connection.
func (b *h1Body) Close() error {
	b.finish(false)
	return nil
}

func (b *h1Body) finish(clean bool) {
	b.once.Do(func() {
		fired := !b.stop()
		if !clean || !b.keep || fired || !b.requestDone() {
			b.conn.end()
			return
		}
		b.conn.pool.put(b.conn)
	})
}

// requestDone reports whether the whole request is on the wire. A response that ends earlier costs the connection.
func (b *h1Body) requestDone() bool {
	if b.written == nil {
		return true
	}
	select {
	case err := <-b.written:
		return err == nil
	default:
		return false
	}
}

// upgraded is the byte stream after 101 Switching Protocols.
type upgraded struct{ *h1Body }

var _ io.ReadWriteCloser = (*upgraded)(nil)

func (u *upgraded) Read(p []byte) (int, error) { return u.conn.br.Read(p) }

// Write implements io.Writer.
func (u *upgraded) Write(p []byte) (int, error) { return u.conn.Write(p) }

// CloseWrite passes on the end of the client's stream.
func (u *upgraded) CloseWrite() error {
	if cw, ok := u.conn.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

// writeAsync sends req. A request without body is sent before it returns (nil channel on success); one with a body is
// sent beside the reading of the response, so that early responses and streaming in both directions work.
func writeAsync(c *h1Conn, req *http.Request, t *Trace) <-chan error {
	if req.Body == nil || req.Body == http.NoBody {
		if err := writeRequest(c.bw, req); err == nil {
			t.nowSent()
			return nil
		}
		ch := make(chan error, 1)
		ch <- io.ErrUnexpectedEOF
		return ch
	}
	ch := make(chan error, 1)
	go func() {
		err := writeRequest(c.bw, req)
		if err != nil {
			// The reader has to notice, or it would wait for a response to half a request.
			_ = c.Conn.Close()
		} else {
			t.nowSent()
		}
		ch <- err
	}()
	return ch
}
