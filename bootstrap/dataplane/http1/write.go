package http1

import (
	"bufio"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// A bufio.Writer keeps its first error for Flush, so the functions below that do not flush return none.

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// WriteRequest serialises req. The target is RequestURI, or what URL gives where that is empty; req.Header must be free
// of hop-by-hop headers except Connection and Upgrade of an upgrade request.
func WriteRequest(w *bufio.Writer, req *http.Request) error { return WriteRequestNames(w, req, nil) }

// WriteRequestNames is WriteRequest with names of headers that were kept.
func WriteRequestNames(w *bufio.Writer, req *http.Request, names Names) error {
	_, _ = w.WriteString(req.Method)
	_ = w.WriteByte(' ')
	target := req.RequestURI
	if target == "" {
		target = req.URL.RequestURI()
	}
	_, _ = w.WriteString(target)
	_, _ = w.WriteString(" HTTP/1.1\r\n")
	_, _ = w.WriteString(names.Name("Host"))
	_, _ = w.WriteString(": ")
	_, _ = w.WriteString(req.Host)
	_, _ = w.WriteString("\r\n")
	for name, values := range req.Header {
		WriteFieldAs(w, names.Name(name), values)
	}
	hasBody := req.Body != nil && req.Body != http.NoBody
	chunked := hasBody && (req.ContentLength < 0 || len(req.Trailer) > 0)
	switch {
	case chunked:
		_, _ = w.WriteString(names.Name("Transfer-Encoding"))
		_, _ = w.WriteString(": chunked\r\n")
	case hasBody:
		WriteLengthAs(w, names.Name("Content-Length"), req.ContentLength)
	case req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch:
		WriteLengthAs(w, names.Name("Content-Length"), 0)
	}
	_, _ = w.WriteString("\r\n")
	if err := w.Flush(); err != nil || !hasBody {
		return err
	}
	if chunked {
		return writeChunked(w, req.Body, func() http.Header { return req.Trailer })
	}
	return copyBody(w, req.Body, req.ContentLength)
}

// WriteLength writes a content-length header.
func WriteLength(w *bufio.Writer, n int64) { WriteLengthAs(w, "content-length", n) }

// WriteLengthAs is WriteLength with the name written as given.
func WriteLengthAs(w *bufio.Writer, name string, n int64) {
	var tmp [20]byte
	_, _ = w.WriteString(name)
	_, _ = w.WriteString(": ")
	_, _ = w.Write(strconv.AppendInt(tmp[:0], n, 10))
	_, _ = w.WriteString("\r\n")
}

// WriteStatus writes the first line of a response.
func WriteStatus(w *bufio.Writer, status int) {
	if status == http.StatusOK {
		_, _ = w.WriteString("HTTP/1.1 200 OK\r\n")
		return
	}
	var tmp [20]byte
	_, _ = w.WriteString("HTTP/1.1 ")
	_, _ = w.Write(strconv.AppendInt(tmp[:0], int64(status), 10))
	_ = w.WriteByte(' ')
	_, _ = w.WriteString(http.StatusText(status))
	_, _ = w.WriteString("\r\n")
}

// WriteField writes one header with all its values; the name, which is canonical, in lower case. Line breaks in values
// become spaces.
func WriteField(w *bufio.Writer, name string, values []string) {
	if len(values) > 0 {
		WriteFieldAs(w, LowerName(name), values)
	}
}

// WriteFieldAs is WriteField with the name written as given.
func WriteFieldAs(w *bufio.Writer, name string, values []string) {
	for _, v := range values {
		_, _ = w.WriteString(name)
		_, _ = w.WriteString(": ")
		if strings.IndexByte(v, '\n') >= 0 || strings.IndexByte(v, '\r') >= 0 {
			v = strings.NewReplacer("\r", " ", "\n", " ").Replace(v)
		}
		_, _ = w.WriteString(v)
		_, _ = w.WriteString("\r\n")
	}
}

func copyBody(w *bufio.Writer, r io.Reader, left int64) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for left > 0 {
		k, err := r.Read((*buf)[:min(int64(len(*buf)), left)])
		if k > 0 {
			left -= int64(k)
			if _, werr := w.Write((*buf)[:k]); werr != nil {
				return werr
			}
			if werr := w.Flush(); werr != nil {
				return werr
			}
		}
		if err == io.EOF && left > 0 {
			return io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// writeChunked copies r in chunks, flushing each, then writes the trailers. trailer is asked after r has ended.
func writeChunked(w *bufio.Writer, r io.Reader, trailer func() http.Header) error {
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
	_, _ = w.WriteString("0\r\n")
	WriteTrailer(w, trailer())
	return w.Flush()
}

// WriteTrailer writes what comes after the last chunk, without flushing. What frames or routes a message is left out: it
// may not come there, though trailers that came over HTTP/2 may have it.
func WriteTrailer(w *bufio.Writer, trailer http.Header) {
	for name, values := range trailer {
		if !IsHop(name) && name != "Host" {
			WriteField(w, name, values)
		}
	}
	_, _ = w.WriteString("\r\n")
}

// WriteChunk writes one chunk, which must not be empty, without flushing.
func WriteChunk(w *bufio.Writer, p []byte) {
	var tmp [20]byte
	_, _ = w.Write(strconv.AppendInt(tmp[:0], int64(len(p)), 16))
	_, _ = w.WriteString("\r\n")
	_, _ = w.Write(p)
	_, _ = w.WriteString("\r\n")
}
