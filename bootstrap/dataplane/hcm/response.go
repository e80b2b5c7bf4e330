package hcm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// writeHead runs the response filters and header rules over h and sends the head. length is that of the body, -1 when
// it is not known. fromUpstream says whether the response came from there.
func (s *Stream) writeHead(status int, h http.Header, length int64, fromUpstream bool) {
	s.status = status
	m := s.m
	s.respHeader = h // rules may refer to what the upstream has sent
	s.responseOps(h)
	s.respond(status, h)
	if s.span != nil {
		s.traceResponse(h)
	}
	switch m.serverTransform {
	case hcmv3.HttpConnectionManager_OVERWRITE:
		h["Server"] = []string{m.serverName}
	case hcmv3.HttpConnectionManager_APPEND_IF_ABSENT:
		if _, ok := h["Server"]; !ok {
			h["Server"] = []string{m.serverName}
		}
	}
	if _, ok := h["Date"]; !ok {
		h["Date"] = []string{httpDate()}
	}
	if m.requestIDInResp {
		if id := s.req.Header["X-Request-Id"]; len(id) > 0 {
			h["X-Request-Id"] = id
		}
	}
	appendVia(h, m.via)
	s.respHeader = h
	s.wroteHeader = true
	if w, ok := s.w.(*h1Response); ok {
		if fromUpstream {
			w.names = s.trace.Answer
		}
		w.head(status, h, length)
		return
	}
	dst := s.w.Header()
	for k, v := range h {
		dst[k] = v
	}
	if _, ok := h["Content-Type"]; !ok {
		dst["Content-Type"] = nil // no guessing
	}
	if length >= 0 && status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified {
		dst["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
	s.w.WriteHeader(status)
}

// setTrailer hands the trailers over, after the body.
func (s *Stream) setTrailer(t http.Header) {
	s.respTrailer = t
	if w, ok := s.w.(*h1Response); ok {
		w.trailer = t
		return
	}
	dst := s.w.Header()
	for k, v := range t {
		dst[http.TrailerPrefix+k] = v
	}
}

var dateCache atomic.Pointer[dated]

type dated struct {
	second int64
	text   string
}

func httpDate() string {
	now := time.Now()
	if d := dateCache.Load(); d != nil && d.second == now.Unix() {
		return d.text
	}
	d := &dated{now.Unix(), now.UTC().Format(http.TimeFormat)}
	dateCache.Store(d)
	return d.text
}

// requestPath gives :path as the client sent it.
func requestPath(r *http.Request) string {
	if r.Method == http.MethodConnect {
		return "" // the target is the authority
	}
	p := r.RequestURI
	if p == "" {
		p = r.URL.RequestURI()
	}
	if !strings.HasPrefix(p, "/") && p != "*" {
		if u, err := url.Parse(p); err == nil && u.Host != "" {
			return u.RequestURI()
		}
	}
	return p
}

// countingBody counts the bytes of a request body and notes when the last came.
type countingBody struct {
	io.ReadCloser
	n     atomic.Uint64
	want  int64 // -1 for an unknown length
	ended atomic.Pointer[time.Time]
	mu    sync.Mutex
	after []func() // to run at the end
	// frames counts gRPC messages where somebody wants to know; nil else.
	frames *frames

	stream  *Stream
	reading sync.Mutex // held by whoever reads
	closed  atomic.Bool
}

// onEnd runs fn when the last byte has come, which may have been before.
func (b *countingBody) onEnd(fn func()) {
	b.mu.Lock()
	over := b.ended.Load() != nil
	if !over {
		b.after = append(b.after, fn)
	}
	b.mu.Unlock()
	if over {
		fn()
	}
}

func (b *countingBody) end() {
	now := time.Now()
	b.mu.Lock()
	b.ended.CompareAndSwap(nil, &now)
	fns := b.after
	b.after = nil
	b.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
}

// shut takes the body away from whoever may still be reading it. It reports false where somebody was: how far the body
// got is then not known.
func (b *countingBody) shut(c net.Conn) bool {
	b.closed.Store(true)
	if b.reading.TryLock() {
		b.reading.Unlock()
		return true
	}
	_ = c.SetReadDeadline(time.Unix(1, 0))
	b.reading.Lock()
	defer b.reading.Unlock()
	return false
}

func (b *countingBody) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.ReadCloser.Read(p)
	total := b.n.Add(uint64(n))
	if b.frames != nil {
		b.frames.feed(p[:n])
	}
	if err == io.EOF || (n > 0 && b.want >= 0 && total == uint64(b.want)) {
		b.end()
	} else if err != nil {
		b.stream.stop(b.stream.uploadFailure(err))
	}
	b.stream.moved()
	return n, err
}

// uploadFailure says why the request's body cannot be read on. Whatever it is, the upstream is not to blame.
func (s *Stream) uploadFailure(err error) error {
	var ne net.Error
	switch {
	case s.req.ProtoMajor != 1, errors.Is(err, io.ErrUnexpectedEOF):
		return context.Canceled
	case errors.As(err, &ne):
		if ne.Timeout() {
			return errRequest
		}
		return context.Canceled
	}
	return errMalformed
}

// requestEnd is when the last byte of the request came, zero where bytes are missing or nobody has read them.
func (s *Stream) requestEnd() time.Time {
	if at := s.received.ended.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

func isGRPCType(ct string) bool {
	rest, ok := strings.CutPrefix(ct, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// grpcReply turns a local reply into the trailers-only form that gRPC clients understand.
func grpcReply(r *reply) http.Header {
	code := r.grpc
	if code == "" {
		code = map[int]string{400: "13", 401: "16", 403: "7", 404: "12", 429: "14", 502: "14", 503: "14", 504: "14"}[r.status]
	}
	if code == "" {
		code = "2"
	}
	h := r.header
	if h == nil {
		h = http.Header{}
	}
	h["Content-Type"], h["Grpc-Status"] = []string{"application/grpc"}, []string{code}
	if r.body != "" {
		h["Grpc-Message"] = []string{grpcMessage(r.body)}
	}
	return h
}

// grpcMessage encodes text as gRPC wants it in a header.
func grpcMessage(text string) string {
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
