package upstream

import (
	"bufio"
	"io"
	"net/http"
	"strconv"
	"sync"
)

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// writeRequest serialises req. The target is req.URL.RequestURI for normal requests; req.Header must be free of
// hop-by-hop headers except Connection and Upgrade of an upgrade request.
func writeRequest(w *bufio.Writer, req *http.Request) error {
	Put(w, req.Method)
	_ = w.WriteByte(' ')
	if req.RequestURI != "" {
		Put(w, req.RequestURI)
	} else {
		Put(w, req.URL.RequestURI())
	}
	Put(w, " HTTP/1.1\r\nhost: ")
	Put(w, req.Host)
	Put(w, "\r\n")
	WriteHeaders(w, req.Header)
	hasBody := req.Body != nil && req.Body != http.NoBody
	chunked := hasBody && (req.ContentLength < 0 || len(req.Trailer) > 0)
	switch {
	case chunked:
		Put(w, "transfer-encoding: chunked\r\n")
	case hasBody:
		writeLength(w, req.ContentLength)
	case req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch:
		writeLength(w, 0)
	}
	Put(w, "\r\n")
	if !hasBody {
		return w.Flush()
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if chunked {
		return WriteChunked(w, req.Body, func() http.Header { return req.Trailer })
	}
	if err := copyBody(w, io.LimitReader(req.Body, req.ContentLength), req.ContentLength); err != nil {
		return err
	}
	return w.Flush()
}

func writeLength(w *bufio.Writer, n int64) {
	Put(w, "content-length: ")
	Put(w, strconv.FormatInt(n, 10))
	Put(w, "\r\n")
}

// WriteHeaders writes all headers with lower-case names, in no particular order. Line breaks in values become spaces.
func WriteHeaders(w *bufio.Writer, h http.Header) {
	for name, values := range h {
		lower := LowerName(name)
		for _, v := range values {
			Put(w, lower)
			Put(w, ": ")
			writeValue(w, v)
			Put(w, "\r\n")
		}
	}
}

func writeValue(w *bufio.Writer, v string) {
	for i := range len(v) {
		if v[i] == '\r' || v[i] == '\n' {
			_ = w.WriteByte(' ')
			continue
		}
		_ = w.WriteByte(v[i])
	}
}

func copyBody(w *bufio.Writer, r io.Reader, want int64) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	var n int64
	for {
		k, err := r.Read(*buf)
		if k > 0 {
			n += int64(k)
			if _, werr := w.Write((*buf)[:k]); werr != nil {
				return werr
			}
			if werr := w.Flush(); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			if n < want {
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// WriteChunked copies r in chunks, flushing each, then writes the trailers. trailer is asked after r has ended.
func WriteChunked(w *bufio.Writer, r io.Reader, trailer func() http.Header) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		k, err := r.Read(*buf)
		if k > 0 {
			WriteChunk(w, (*buf)[:k])
			if werr := w.Flush(); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	Put(w, "0\r\n")
	WriteHeaders(w, trailer())
	Put(w, "\r\n")
	return w.Flush()
}

// WriteChunk writes one chunk, which must not be empty, without flushing.
func WriteChunk(w *bufio.Writer, p []byte) {
	var tmp [20]byte
	_, _ = w.Write(strconv.AppendInt(tmp[:0], int64(len(p)), 16))
	Put(w, "\r\n")
	_, _ = w.Write(p)
	Put(w, "\r\n")
}
