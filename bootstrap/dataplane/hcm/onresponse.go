package hcm

import (
	"net/http"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// atResponse has fn called on the head of the response, wherever it comes from, as a response filter is.
func (s *Stream) atResponse(fn func(http.Header)) { s.onResponse = append(s.onResponse, fn) }

// respond runs the filters, last first, over the head of a response.
func (s *Stream) respond(status int, h http.Header) {
	for _, fn := range s.onResponse {
		fn(h)
	}
	for i := len(s.m.filters) - 1; i >= 0; i-- {
		if f := s.m.filters[i].response; f != nil && s.skip&(1<<i) == 0 {
			f(s, status, h)
		}
	}
}

// cutPath splits :path into path and query; a fragment belongs to neither.
func cutPath(p string) (path, query string) {
	path, query, _ = strings.Cut(p, "?")
	path, _, _ = strings.Cut(path, "#")
	return path, query
}

// runtimeCoin compiles a share of requests; without one the answer is always def. There is no runtime whose keys could
// say otherwise.
func runtimeCoin(p *corev3.RuntimeFractionalPercent, def bool) func() bool {
	if p == nil {
		return func() bool { return def }
	}
	if c := fraction(p.GetDefaultValue()); c != nil {
		return c
	}
	return func() bool { return true }
}
