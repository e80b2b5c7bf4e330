package hcm

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// h1Response writes one HTTP/1 response. Trailers are set on the header map with http.TrailerPrefix, as with net/http.
type h1Response struct {
	conn   *network.Conn
	br     *bufio.Reader
	bw     *bufio.Writer
	req    *http.Request
	header http.Header
	mu     sync.Mutex // the head against an interim response

	status     int
	chunked    bool
	noBody     bool
	length     int64
	written    int64
	closeAfter bool
	hijacked   bool
	broken     bool
	lingering  bool // the client may still be sending
	watch      *watcher
	err        error
}

var (
	_ http.ResponseWriter = (*h1Response)(nil)
	_ http.Flusher        = (*h1Response)(nil)
)

// Header implements http.ResponseWriter.
func (w *h1Response) Header() http.Header { return w.header }

// interim tells the client to go on, unless the response has begun.
func (w *h1Response) interim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == 0 {
		upstream.Put(w.bw, "HTTP/1.1 100 Continue\r\n\r\n")
		_ = w.bw.Flush()
	}
}

// WriteHeader implements http.ResponseWriter.
func (w *h1Response) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status != 0 {
		return
	}
	w.status, w.length = status, -1
	w.noBody = w.req.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
	if cl := w.header["Content-Length"]; len(cl) == 1 {
		if n, err := strconv.ParseInt(cl[0], 10, 64); err == nil && n >= 0 {
			w.length = n
		}
	}
	w.lingering = w.req.Body != nil && w.req.Body != http.NoBody
	if isDraining(w.conn) {
		w.closeAfter = true
	}
	b := w.bw
	upstream.Put(b, "HTTP/1.1 ")
	upstream.Put(b, strconv.Itoa(status))
	_ = b.WriteByte(' ')
	upstream.Put(b, http.StatusText(status))
	upstream.Put(b, "\r\n")
	for name, values := range w.header {
		if name == "Content-Length" || upstream.IsHop(name) || strings.HasPrefix(name, http.TrailerPrefix) {
			continue
		}
		upstream.WriteHeaders(b, http.Header{name: values})
	}
	switch {
	case w.length >= 0:
		upstream.Put(b, "content-length: ")
		upstream.Put(b, strconv.FormatInt(w.length, 10))
		upstream.Put(b, "\r\n")
	case w.noBody:
	case w.req.ProtoAtLeast(1, 1):
		w.chunked = true
		upstream.Put(b, "transfer-encoding: chunked\r\n")
	default:
		w.closeAfter = true
	}
	if w.closeAfter {
		upstream.Put(b, "connection: close\r\n")
	}
	upstream.Put(b, "\r\n")
}

// Write implements http.ResponseWriter.
func (w *h1Response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.noBody || len(p) == 0 {
		return len(p), w.err
	}
	if w.length >= 0 && w.written+int64(len(p)) > w.length {
		w.broken = true
		return 0, http.ErrContentLength
	}
	if w.chunked {
		upstream.WriteChunk(w.bw, p)
		w.written += int64(len(p))
		return len(p), w.err
	}
	n, err := w.bw.Write(p)
	w.written += int64(n)
	if err != nil {
		w.err = err
	}
	return n, err
}

// Flush implements http.Flusher.
func (w *h1Response) Flush() {
	if err := w.bw.Flush(); err != nil {
		w.err = err
	}
}

// finish ends the message. An error means that the connection cannot be used again.
func (w *h1Response) finish() error {
	if w.status == 0 {
		return errors.New("no response")
	}
	if w.chunked {
		upstream.Put(w.bw, "0\r\n")
		for name, values := range w.header {
			if t, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
				upstream.WriteHeaders(w.bw, http.Header{t: values})
			}
		}
		upstream.Put(w.bw, "\r\n")
	}
	if err := w.bw.Flush(); err != nil {
		return err
	}
	if w.length >= 0 && !w.noBody && w.written < w.length {
		return io.ErrUnexpectedEOF
	}
	return w.err
}

// abort makes the client see that the response is incomplete: the connection closes without the end of the message.
func (w *h1Response) abort() {
	_ = w.bw.Flush()
	w.broken = true
}

// hijack sends the head of a 101 response and gives the byte stream over.
func (w *h1Response) hijack(status int, h http.Header) (io.ReadWriteCloser, error) {
	if w.watch != nil {
		w.watch.stop() // the client's bytes are read by somebody else from now on
	}
	w.hijacked, w.status = true, status
	b := w.bw
	upstream.Put(b, "HTTP/1.1 ")
	upstream.Put(b, strconv.Itoa(status))
	_ = b.WriteByte(' ')
	upstream.Put(b, http.StatusText(status))
	upstream.Put(b, "\r\n")
	upstream.WriteHeaders(b, h)
	upstream.Put(b, "\r\n")
	if err := b.Flush(); err != nil {
		return nil, err
	}
	return &rawClient{w}, nil
}

// rawClient is the client's byte stream after an upgrade.
type rawClient struct{ w *h1Response }

func (r *rawClient) Read(p []byte) (int, error)  { return r.w.br.Read(p) }
func (r *rawClient) Write(p []byte) (int, error) { return r.w.conn.Write(p) }
func (r *rawClient) Close() error                { return r.w.conn.Close() }

// CloseWrite passes on the end of the upstream's stream.
func (r *rawClient) CloseWrite() error {
	if cw, ok := r.w.conn.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}
