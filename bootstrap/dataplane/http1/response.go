package http1

import (
	"bufio"
	"net/http"
)

// ReadResponse reads the head of one response to req, which may have limit bytes, and prepares its body.
func ReadResponse(br *bufio.Reader, req *http.Request, limit int) (*http.Response, error) {
	return ReadResponseNames(br, req, limit, nil)
}

// ReadResponseNames is ReadResponse that keeps the names of the headers, unless names is nil.
func ReadResponseNames(br *bufio.Reader, req *http.Request, limit int, names *Names) (*http.Response, error) {
	head, err := readHead(br, limit)
	if err != nil {
		return nil, err
	}
	first, rest := line(head)
	// HTTP/1.1 200 OK, the reason may be missing and so may the space before it.
	if len(first) < 12 || first[8] != ' ' || len(first) > 12 && first[12] != ' ' || !all(first, &text) {
		return nil, bad("malformed status line")
	}
	minor, err := version(first[:8])
	if err != nil {
		return nil, err
	}
	status := 0
	for _, c := range []byte(first[9:12]) {
		if c < '0' || c > '9' {
			return nil, bad("malformed status")
		}
		status = status*10 + int(c-'0')
	}
	if status < 100 {
		return nil, bad("malformed status")
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
	resp := &http.Response{
		Status: first[9:], StatusCode: status, Proto: first[:8], ProtoMajor: 1, ProtoMinor: minor, Header: h, Request: req,
		ContentLength: f.length,
		Close:         hasToken(h["Connection"], "close") || minor == 0 && !hasToken(h["Connection"], "keep-alive"),
	}
	switch {
	case status < 200, status == http.StatusNoContent, status == http.StatusNotModified:
		resp.Body = http.NoBody
		if status != http.StatusNotModified {
			// A body that must not be there may come all the same; it is not the start of the next response.
			resp.Close = resp.Close || status == http.StatusNoContent && (f.chunked || f.length > 0)
			resp.ContentLength = 0
		}
	case req != nil && req.Method == http.MethodHead:
		resp.Body = http.NoBody
	case req != nil && req.Method == http.MethodConnect && status < 300:
		resp.Body = http.NoBody // a tunnel begins
	case f.chunked:
		resp.Trailer = declared(h)
		delete(h, "Trailer")
		resp.Body = newChunked(br, limit, func(t http.Header) { merge(&resp.Trailer, t) })
	case f.length == 0:
		resp.Body = http.NoBody
	case f.length > 0:
		resp.Body = &fixed{br, f.length}
	default:
		resp.Close = true
		resp.Body = &rest2end{br}
	}
	return resp, nil
}
