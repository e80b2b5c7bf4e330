package hcm

import (
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// writeHead runs the response filters and header rules over h and sends the head. length is that of the body, -1 when
// it is not known. fromUpstream says whether the response came from there.
func (s *Stream) writeHead(status int, h http.Header, length int64, fromUpstream bool) {
	s.status = status
	m := s.m
	for i := len(m.filters) - 1; i >= 0; i-- {
		if f := m.filters[i].response; f != nil {
			f(s, status, h)
		}
	}
	if s.route != nil {
		if s.weighted != nil {
			s.weighted.ops.response(s, h)
		}
		s.route.ops.response(s, h)
		s.route.vhost.headers.response(s, h)
		s.table.headers.response(s, h)
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
	s.respHeader = h
	s.wroteHeader = true
	s.w.WriteHeader(status)
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
	moved func()
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	total := b.n.Add(uint64(n))
	if err == io.EOF || (n > 0 && b.want >= 0 && total == uint64(b.want)) {
		now := time.Now()
		b.ended.CompareAndSwap(nil, &now)
	}
	b.moved()
	return n, err
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
	code := map[int]string{400: "13", 401: "16", 403: "7", 404: "12", 429: "14", 502: "14", 503: "14", 504: "14"}[r.status]
	if code == "" {
		code = "2"
	}
	h := http.Header{"Content-Type": {"application/grpc"}, "Grpc-Status": {code}}
	if r.body != "" {
		h["Grpc-Message"] = []string{url.PathEscape(r.body)}
	}
	return h
}
