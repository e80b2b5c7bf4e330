package hcm

import (
	"net/http"
	"strings"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// normalizePath applies the connection manager's path rules to s.path. What it changes is what filters, routes and the
// upstream see.
func (s *Stream) normalizePath() *reply {
	m := s.m
	if strings.IndexByte(s.path, '#') >= 0 {
		return &reply{status: http.StatusBadRequest, details: "path_normalization_failed"} // a fragment stays with the client
	}
	bare, query, hasQuery := strings.Cut(s.path, "?")
	was := bare
	if m.escaped != hcmv3.HttpConnectionManager_KEEP_UNCHANGED && m.escaped != 0 && hasEscapedSlash(bare) {
		switch m.escaped {
		case hcmv3.HttpConnectionManager_REJECT_REQUEST:
			return &reply{status: http.StatusBadRequest, details: "path_normalization_failed"}
		case hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT:
			bare = unescapeSlashes(bare)
			target := s.canonicalPath(bare)
			if hasQuery {
				target += "?" + query
			}
			return &reply{
				status: http.StatusTemporaryRedirect, header: http.Header{"Location": {target}},
				details: "path_normalization_failed",
			}
		case hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD:
			bare = unescapeSlashes(bare)
		}
	}
	bare = s.canonicalPath(bare)
	if bare == "" {
		return &reply{status: http.StatusBadRequest, details: "path_normalization_failed"}
	}
	if bare != was {
		s.path = bare
		if hasQuery {
			s.path += "?" + query
		}
	}
	return nil
}

// canonicalPath resolves dot segments, decodes escaped unreserved characters and merges slashes, as far as configured.
// Empty means that the path leaves the root.
func (s *Stream) canonicalPath(p string) string {
	if s.m.normalize && strings.HasPrefix(p, "/") {
		p = decodeUnreserved(strings.ReplaceAll(p, "\\", "/"))
		p = removeDots(p)
	}
	if s.m.mergeSlashes {
		for strings.Contains(p, "//") {
			p = strings.ReplaceAll(p, "//", "/")
		}
	}
	return p
}

func removeDots(p string) string {
	if !strings.Contains(p, "/.") {
		return p
	}
	parts := strings.Split(p[1:], "/")
	out := make([]string, 0, len(parts))
	for i, seg := range parts {
		last := i == len(parts)-1
		switch seg {
		case ".":
			if last {
				out = append(out, "")
			}
		case "..":
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, seg)
		}
	}
	return "/" + strings.Join(out, "/")
}

// decodeUnreserved decodes %XX of characters that never need escaping (RFC 3986, 2.3). A percent sign that begins no
// escape must not begin one afterwards, or the next decoder would see what rules have not: it is escaped then.
func decodeUnreserved(p string) string {
	if !strings.Contains(p, "%") {
		return p
	}
	out := make([]byte, 0, len(p))
	lone := -1 // where out has the latest percent sign that begins no escape
	for i := 0; i < len(p); i++ {
		c := p[i]
		if c == '%' {
			d, ok := escaped(p[i:])
			switch {
			case ok && unreserved(d):
				c = d
				i += 2
			case ok:
				out = append(out, p[i:i+3]...)
				i += 2
				continue
			default:
				lone = len(out)
			}
		}
		out = append(out, c)
		if lone >= 0 && len(out) == lone+3 {
			if _, ok := escaped(string(out[lone:])); ok {
				out = append(out[:lone], '%', '2', '5', out[lone+1], c)
			}
			lone = -1
		}
	}
	return string(out)
}

// escaped decodes the escape that p begins with.
func escaped(p string) (byte, bool) {
	if len(p) < 3 || p[0] != '%' {
		return 0, false
	}
	hi, lo := unhex(p[1]), unhex(p[2])
	return byte(hi<<4 | lo), hi >= 0 && lo >= 0
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

func hasEscapedSlash(p string) bool {
	l := strings.ToLower(p)
	return strings.Contains(l, "%2f") || strings.Contains(l, "%5c")
}

func unescapeSlashes(p string) string {
	return strings.NewReplacer("%2f", "/", "%2F", "/", "%5c", "\\", "%5C", "\\").Replace(p)
}
