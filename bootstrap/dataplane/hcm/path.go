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
	bare, query, hasQuery := strings.Cut(s.path, "?")
	was := bare
	if i := strings.IndexByte(bare, '#'); i >= 0 {
		bare, hasQuery = bare[:i], false // a fragment has no business here, nor has what follows it
	}
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

// decodeUnreserved decodes %XX of characters that never need escaping (RFC 3986, 2.3).
func decodeUnreserved(p string) string {
	if !strings.Contains(p, "%") {
		return p
	}
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] == '%' && i+2 < len(p) {
			hi, lo := unhex(p[i+1]), unhex(p[i+2])
			if hi >= 0 && lo >= 0 {
				if c := byte(hi<<4 | lo); unreserved(c) {
					b.WriteByte(c)
					i += 2
					continue
				}
			}
		}
		b.WriteByte(p[i])
	}
	return b.String()
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
