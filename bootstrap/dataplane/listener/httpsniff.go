package listener

import (
	"bytes"
	"strings"
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

var methods = []string{
	"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "ACL", "BIND", "CHECKOUT", "COPY",
	"LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "MSEARCH", "NOTIFY", "PROPFIND", "PROPPATCH",
	"PURGE", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE",
}

// inspectHTTP tells whether b starts like HTTP: the protocol is "h2c", "http/1.1", "http/1.0" or empty for neither.
// more means that b is too short to tell.
func inspectHTTP(b []byte) (protocol string, more bool) {
	if len(b) == 0 {
		return "", true
	}
	if n := min(len(b), len(preface)); string(b[:n]) == preface[:n] {
		if n < len(preface) {
			return "", true
		}
		return "h2c", false
	}
	line := b
	end := bytes.IndexByte(b, '\n')
	if end >= 0 {
		line = bytes.TrimSuffix(b[:end], []byte("\r"))
	}
	method, rest, spaced := bytes.Cut(line, []byte(" "))
	if !spaced {
		if end >= 0 || !methodPrefix(string(method)) {
			return "", false
		}
		return "", true
	}
	if !methodKnown(string(method)) {
		return "", false
	}
	if end < 0 {
		return "", len(b) < maxPeek
	}
	switch {
	case bytes.HasSuffix(rest, []byte(" HTTP/1.1")):
		return "http/1.1", false
	case bytes.HasSuffix(rest, []byte(" HTTP/1.0")):
		return "http/1.0", false
	}
	return "", false
}

func methodPrefix(s string) bool {
	for _, m := range methods {
		if strings.HasPrefix(m, s) {
			return true
		}
	}
	return false
}

func methodKnown(s string) bool {
	for _, m := range methods {
		if m == s {
			return true
		}
	}
	return false
}
