package hcm

import (
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/http1"
)

// h1Response writes one HTTP/1 response.
type h1Response struct {
	server *h1Server
	req    *http.Request
	mu     sync.Mutex // the head against an interim response

	header     http.Header // for Header: nobody sets headers here but net/http's own functions
	trailer    http.Header
	names      http1.Names // of headers, where the upstream's were kept
	status     int
	chunked    bool
	noBody     bool
	length     int64
	written    int64
	closeAfter bool
	hijacked   bool
	broken     bool
	over       bool // the writer is somebody else's
	err        error
}

var (
	_ http.ResponseWriter = (*h1Response)(nil)
	_ http.Flusher        = (*h1Response)(nil)
)

// Header implements http.ResponseWriter.
func (w *h1Response) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

// WriteHeader implements http.ResponseWriter.
func (w *h1Response) WriteHeader(status int) { w.head(status, w.Header(), -1) }

// interim tells the client to go on, unless the response has begun.
func (w *h1Response) interim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == 0 && !w.over {
		_, _ = w.server.bw.WriteString("HTTP/1.1 100 Continue\r\n\r\n")
		_ = w.server.bw.Flush()
	}
}

// head writes the head. length is that of the body, -1 where it is not known.
func (w *h1Response) head(status int, h http.Header, length int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status != 0 {
		return
	}
	w.status, w.length = status, length
	w.noBody = w.req.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
	if isDraining(w.server.c) {
		w.closeAfter = true
	}
	b := w.server.bw
	http1.WriteStatus(b, status)
	for name, values := range h {
		if !http1.IsHop(name) {
			http1.WriteFieldAs(b, w.names.Name(name), values)
		}
	}
	switch {
	case length >= 0 && status != http.StatusNoContent && status != http.StatusNotModified:
		http1.WriteLengthAs(b, w.names.Name("Content-Length"), length)
	case w.noBody:
	case w.req.ProtoAtLeast(1, 1):
		w.chunked = true
		_, _ = b.WriteString(w.names.Name("Transfer-Encoding"))
		_, _ = b.WriteString(": chunked\r\n")
	default:
		w.closeAfter = true
	}
	switch {
	case w.closeAfter:
		_, _ = b.WriteString("connection: close\r\n")
	case !w.req.ProtoAtLeast(1, 1):
		_, _ = b.WriteString("connection: keep-alive\r\n")
	}
	_, _ = b.WriteString("\r\n")
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
		http1.WriteChunk(w.server.bw, p)
		w.written += int64(len(p))
		return len(p), w.err
	}
	n, err := w.server.bw.Write(p)
	w.written += int64(n)
	if err != nil {
		w.err = err
	}
	return n, err
}

// Flush implements http.Flusher.
func (w *h1Response) Flush() {
	if err := w.server.bw.Flush(); err != nil {
		w.err = err
	}
}

// close keeps an interim response from coming after the end.
func (w *h1Response) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}

// finish ends the message. An error means that the connection cannot be used again.
func (w *h1Response) finish() error {
	if w.status == 0 {
		return errors.New("no response")
	}
	b := w.server.bw
	if w.chunked {
		_, _ = b.WriteString("0\r\n")
		http1.WriteTrailer(b, w.trailer)
	}
	if err := b.Flush(); err != nil {
		return err
	}
	if w.length >= 0 && !w.noBody && w.written < w.length {
		return io.ErrUnexpectedEOF
	}
	return w.err
}

// abort makes the client see that the response is incomplete: the connection closes without the end of the message.
func (w *h1Response) abort() {
	_ = w.server.bw.Flush()
	w.broken = true
}

// hijack sends the head of a 101 response and gives the byte stream over.
func (w *h1Response) hijack(status int, h http.Header) (io.ReadWriteCloser, error) {
	w.server.clock.leave() // the client's bytes are read by somebody else from now on
	w.hijacked, w.status = true, status
	b := w.server.bw
	http1.WriteStatus(b, status)
	for name, values := range h {
		http1.WriteField(b, name, values)
	}
	_, _ = b.WriteString("\r\n")
	if err := b.Flush(); err != nil {
		return nil, err
	}
	return &rawClient{w.server}, nil
}

// rawClient is the client's byte stream after an upgrade.
type rawClient struct{ s *h1Server }

func (r *rawClient) Read(p []byte) (int, error)  { return r.s.br.Read(p) }
func (r *rawClient) Write(p []byte) (int, error) { return r.s.c.Write(p) }
func (r *rawClient) Close() error                { return r.s.c.Close() }

// CloseWrite passes on the end of the upstream's stream.
func (r *rawClient) CloseWrite() error {
	if cw, ok := r.s.c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}
