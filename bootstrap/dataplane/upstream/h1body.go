package upstream

import (
	"context"
	"io"
	"net/http"
	"sync"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/http1"
)

// h1Body is a response body that gives the connection back to its pool at the end.
type h1Body struct {
	src     io.ReadCloser
	conn    *h1Conn
	written <-chan error // nil when the request is already written
	owner   Abortable    // what the connection is attached to, or
	stop    func() bool  // how the watch for the context's end stops
	keep    bool
	once    sync.Once
}

// guard makes the end of ctx interrupt the exchange.
func (b *h1Body) guard(ctx context.Context) {
	if a, ok := ctx.(Abortable); ok && a.Attach(b.conn) {
		b.owner = a
		return
	}
	b.stop = context.AfterFunc(ctx, b.conn.Abort)
}

// release ends the guard. It reports whether the context has left the connection alone.
func (b *h1Body) release() bool {
	if b.owner != nil {
		return b.owner.Detach(b.conn)
	}
	return b.stop()
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
		if !b.release() || !clean || !b.keep || !b.requestDone() {
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
		if err := http1.WriteRequestNames(c.bw, req, t.Names); err == nil {
			t.nowSentAlone()
			return nil
		}
		ch := make(chan error, 1)
		ch <- io.ErrUnexpectedEOF
		return ch
	}
	ch := make(chan error, 1)
	names := t.Names
	go func() {
		err := http1.WriteRequestNames(c.bw, req, names)
		if err != nil {
			// The reader has to notice, or it would wait for a response to half a request.
			_ = c.Close()
		} else {
			t.nowSent()
		}
		ch <- err
	}()
	return ch
}
