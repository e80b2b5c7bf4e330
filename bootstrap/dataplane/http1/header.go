package http1

import (
	"net/http"
	"net/textproto"
	"strings"
)

// canonical finds the canonical form of header names seen often, by the two ways they are written.
var canonical = func() map[string]string {
	m := map[string]string{}
	for _, n := range []string{
		"Accept", "Accept-Encoding", "Accept-Language", "Accept-Ranges", "Access-Control-Allow-Credentials",
		"Access-Control-Allow-Headers", "Access-Control-Allow-Methods", "Access-Control-Allow-Origin",
		"Access-Control-Expose-Headers", "Access-Control-Max-Age", "Access-Control-Request-Headers",
		"Access-Control-Request-Method", "Age", "Allow", "Authorization", "Cache-Control", "Connection",
		"Content-Disposition", "Content-Encoding", "Content-Language", "Content-Length", "Content-Type", "Cookie", "Date",
		"End-User", "Etag", "Expect", "Expires", "Forwarded", "Grpc-Message", "Grpc-Status", "Host", "If-Modified-Since",
		"If-None-Match", "Keep-Alive", "Last-Modified", "Link", "Location", "Origin", "Pragma", "Proxy-Connection", "Range",
		"Referer", "Retry-After", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Server", "Set-Cookie",
		"Strict-Transport-Security", "Te", "Traceparent", "Tracestate", "Trailer", "Transfer-Encoding", "Upgrade",
		"Upgrade-Insecure-Requests", "User-Agent", "Vary", "Via", "Www-Authenticate", "X-B3-Parentspanid", "X-B3-Sampled",
		"X-B3-Spanid", "X-B3-Traceid", "X-Content-Type-Options", "X-Envoy-Attempt-Count", "X-Envoy-Decorator-Operation",
		"X-Envoy-External-Address", "X-Envoy-Internal", "X-Envoy-Original-Path", "X-Envoy-Peer-Metadata",
		"X-Envoy-Peer-Metadata-Id", "X-Envoy-Upstream-Service-Time", "X-Forwarded-Client-Cert", "X-Forwarded-For",
		"X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Frame-Options", "X-Powered-By", "X-Real-Ip",
		"X-Request-Id", "X-Xss-Protection",
	} {
		m[n], m[strings.ToLower(n)] = n, n
	}
	return m
}()

// lower is the other way about: HTTP/1.1 names go out in lower case, as from Envoy.
var lower = func() map[string]string {
	m := map[string]string{}
	for k, n := range canonical {
		if k == n {
			m[n] = strings.ToLower(n)
		}
	}
	return m
}()

// LowerName returns the lower-case form of a header name.
func LowerName(n string) string {
	if l, ok := lower[n]; ok {
		return l
	}
	return strings.ToLower(n)
}

// Hop-by-hop headers never travel to the next hop; upgrade requests put two of them back.
var hopByHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Transfer-Encoding": true, "Upgrade": true,
	"Trailer": true, "Content-Length": true,
}

// IsHop reports whether the canonical header name is meant for one hop only.
func IsHop(name string) bool { return hopByHop[name] }

// token marks the characters of methods and header names (RFC 9110, 5.6.2), text those of values and targets.
var token, text [256]bool

func init() {
	for c := range 256 {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		token[c] = letter || strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
		text[c] = c >= ' ' && c != 0x7f || c == '\t'
	}
}

func all(s string, class *[256]bool) bool {
	for i := range len(s) {
		if !class[s[i]] {
			return false
		}
	}
	return true
}

// line splits the first line off s, without its end.
func line(s string) (first, rest string) {
	n := strings.IndexByte(s, '\n')
	if n < 0 {
		return s, ""
	}
	first, rest = s[:n], s[n+1:]
	if n > 0 && first[n-1] == '\r' {
		first = first[:n-1]
	}
	return first, rest
}

// parseHeader reads header lines up to the empty one, which must be the end of s.
func parseHeader(s string) (http.Header, error) {
	count := strings.Count(s, "\n")
	if count > maxHeaders+1 {
		return nil, ErrTooLarge
	}
	h := make(http.Header, count)
	values := make([]string, count) // one allocation for all lists of one
	for {
		var l string
		l, s = line(s)
		if l == "" {
			return h, nil
		}
		colon := strings.IndexByte(l, ':')
		if colon <= 0 {
			return nil, bad("header line without a name")
		}
		name, ok := canonical[l[:colon]]
		if !ok {
			name = l[:colon]
			if !all(name, &token) {
				return nil, bad("malformed header name")
			}
			name = textproto.CanonicalMIMEHeaderKey(name)
		}
		value := strings.Trim(l[colon+1:], " \t")
		if !all(value, &text) {
			return nil, bad("malformed header value")
		}
		if have, ok := h[name]; ok {
			h[name] = append(have, value)
			continue
		}
		values[0] = value
		h[name], values = values[:1:1], values[1:]
	}
}

// framing is how the end of a message's body is found.
type framing struct {
	length  int64 // -1 where no length is given
	chunked bool
}

// parseFraming reads and removes what says how long the body is. minor is the message's HTTP/1 version.
func parseFraming(h http.Header, minor int) (framing, error) {
	f := framing{length: -1}
	te, lengths := h["Transfer-Encoding"], h["Content-Length"]
	if len(te) > 0 {
		if minor == 0 {
			return f, bad("transfer coding in HTTP/1.0")
		}
		if len(lengths) > 0 {
			return f, bad("content length and transfer coding")
		}
		if len(te) > 1 || !strings.EqualFold(te[0], "chunked") {
			return f, ErrCoding
		}
		delete(h, "Transfer-Encoding")
		f.chunked = true
		return f, nil
	}
	if len(lengths) == 0 {
		return f, nil
	}
	if len(lengths) > 1 {
		return f, bad("more than one content length")
	}
	n, ok := parseLength(lengths[0])
	if !ok {
		return f, bad("malformed content length")
	}
	f.length = n
	return f, nil
}

func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// hasToken reports whether a list header has the token, which is in lower case.
func hasToken(values []string, want string) bool {
	for _, v := range values {
		for v != "" {
			var t string
			t, v, _ = strings.Cut(v, ",")
			if strings.EqualFold(strings.Trim(t, " \t"), want) {
				return true
			}
		}
	}
	return false
}

// declared returns the trailers that a chunked message announces, by name, without values; nil for none. What may not
// come after the body is left out.
func declared(h http.Header) http.Header {
	var out http.Header
	for _, v := range h["Trailer"] {
		for name := range strings.SplitSeq(v, ",") {
			name = textproto.CanonicalMIMEHeaderKey(strings.Trim(name, " \t"))
			if name == "" || IsHop(name) || name == "Host" {
				continue
			}
			if out == nil {
				out = http.Header{}
			}
			out[name] = nil
		}
	}
	return out
}
