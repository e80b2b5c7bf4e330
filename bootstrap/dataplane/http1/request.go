package http1

import (
	"bufio"
	"context"
	"net/http"
	"net/url"
	"strings"
)

// ReadRequest reads one request from br, whose head may have limit bytes. An ordinary target ("/path?query") is not
// decoded: RequestURI has it as it came, URL has its two parts raw. The body must be read to its end, or the request be
// the last.
func ReadRequest(ctx context.Context, br *bufio.Reader, limit int) (*http.Request, error) {
	return ReadRequestNames(ctx, br, limit, nil)
}

// ReadRequestNames is ReadRequest that keeps the names of the headers, unless names is nil.
func ReadRequestNames(ctx context.Context, br *bufio.Reader, limit int, names *Names) (*http.Request, error) {
	head, err := readHead(br, limit)
	for n := 0; err == nil && len(head) <= 2 && n < 2; n++ {
		head, err = readHead(br, limit) // empty lines before a request are passed over
	}
	if err != nil {
		return nil, err
	}
	first, rest := line(head)
	method, first, ok1 := strings.Cut(first, " ")
	target, proto, ok2 := strings.Cut(first, " ")
	if !ok1 || !ok2 || !ValidStart(method, target) {
		return nil, bad("malformed request line")
	}
	minor, err := version(proto)
	if err != nil {
		return nil, err
	}
	h, err := parseHeader(rest)
	if err != nil {
		return nil, err
	}
	if names != nil {
		*names = namesOf(rest)
	}
	f, err := parseFraming(h, minor)
	if err != nil {
		return nil, err
	}
	var r struct {
		http.Request
		url url.URL
	}
	req := &r.Request
	r.Request = *r.WithContext(ctx)
	req.Method, req.Header, req.RequestURI, req.URL = method, h, target, &r.url
	req.Proto, req.ProtoMajor, req.ProtoMinor = proto, 1, minor
	if err := setTarget(req); err != nil {
		return nil, err
	}
	if err := setHost(req); err != nil {
		return nil, err
	}
	req.Close = hasToken(h["Connection"], "close") || minor == 0 && !hasToken(h["Connection"], "keep-alive")
	setBody(req, f, br, limit)
	return req, nil
}

// ValidStart reports whether method and target make a request line that everybody reads alike.
func ValidStart(method, target string) bool {
	return method != "" && all(method, &token) && target != "" && all(target, &text) && !strings.ContainsAny(target, " \t")
}

// version reads "HTTP/1.0" or "HTTP/1.1". ErrVersion stands for an older one.
func version(proto string) (minor int, err error) {
	switch {
	case proto == "HTTP/1.1":
		return 1, nil
	case proto == "HTTP/1.0":
		return 0, nil
	case len(proto) == 8 && strings.HasPrefix(proto, "HTTP/0."):
		return 0, ErrVersion
	}
	return 0, bad("malformed HTTP version")
}

func setTarget(req *http.Request) error {
	t := req.RequestURI
	if t[0] == '/' {
		req.URL.Path, req.URL.RawQuery, _ = strings.Cut(t, "?")
		return nil
	}
	if req.Method == http.MethodConnect {
		req.URL.Host = t
		return nil
	}
	u, err := url.ParseRequestURI(t)
	if err != nil {
		return bad("malformed target")
	}
	*req.URL = *u
	return nil
}

// setHost takes the authority from the target, or from the one host header.
func setHost(req *http.Request) error {
	hosts := req.Header["Host"]
	if len(hosts) > 1 {
		return bad("more than one host")
	}
	req.Host = req.URL.Host
	if req.Host == "" && len(hosts) == 1 {
		req.Host = hosts[0]
	}
	delete(req.Header, "Host")
	if !ValidHost(req.Host) {
		return bad("malformed host")
	}
	return nil
}

// ValidHost reports whether s has only characters of a host with a port.
func ValidHost(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"#/<>?@\\^`{|}", c) >= 0 {
			return false
		}
	}
	return true
}

func setBody(req *http.Request, f framing, br *bufio.Reader, limit int) {
	switch {
	case f.chunked:
		req.ContentLength = -1
		req.Trailer = declared(req.Header)
		delete(req.Header, "Trailer")
		req.Body = newChunked(br, limit, func(t http.Header) { merge(&req.Trailer, t) })
	case f.length > 0:
		req.ContentLength = f.length
		req.Body = &fixed{br, f.length}
	default:
		req.Body = http.NoBody
	}
}

func merge(into *http.Header, t http.Header) {
	if *into == nil {
		*into = t
		return
	}
	for k, v := range t {
		(*into)[k] = v
	}
}
