package jwt

import (
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
)

// place is one spot of a request where tokens stand.
type place struct {
	kind   placeKind
	name   string
	prefix string // of a header's value
}

type placeKind int

const (
	inHeader placeKind = iota
	inParam
	inCookie
)

// places lists where the tokens of a provider are: those it names, else the usual two.
func places(p *jwtv3.JwtProvider) []place {
	var out []place
	for _, h := range p.GetFromHeaders() {
		out = append(out, place{inHeader, textproto.CanonicalMIMEHeaderKey(h.GetName()), h.GetValuePrefix()})
	}
	for _, n := range p.GetFromParams() {
		out = append(out, place{kind: inParam, name: n})
	}
	for _, n := range p.GetFromCookies() {
		out = append(out, place{kind: inCookie, name: n})
	}
	if len(out) == 0 {
		out = []place{{inHeader, "Authorization", "Bearer "}, {kind: inParam, name: "access_token"}}
	}
	return out
}

// find returns the token at the place, if there is one.
func (p place) find(r *Request) (string, bool) {
	switch p.kind {
	case inHeader:
		values := r.Header[p.name]
		if len(values) == 0 {
			return "", false
		}
		v := strings.Join(values, ",")
		if p.prefix == "" {
			return v, true
		}
		_, after, ok := strings.Cut(v, p.prefix)
		return span(after), ok
	case inParam:
		_, query, _ := strings.Cut(r.Path, "?")
		if query == "" {
			return "", false
		}
		for pair := range strings.SplitSeq(query, "&") {
			name, value, _ := strings.Cut(pair, "=")
			if unescape(name) == p.name {
				return unescape(value), true
			}
		}
	case inCookie:
		for _, c := range (&http.Request{Header: http.Header{"Cookie": r.Header["Cookie"]}}).Cookies() {
			if c.Name == p.name {
				return c.Value, true
			}
		}
	}
	return "", false
}

// remove takes the token out of the request. Cookies stay.
func (p place) remove(r *Request) {
	switch p.kind {
	case inHeader:
		delete(r.Header, p.name)
	case inParam:
		bare, query, _ := strings.Cut(r.Path, "?")
		var kept []string
		for pair := range strings.SplitSeq(query, "&") {
			if name, _, _ := strings.Cut(pair, "="); unescape(name) != p.name {
				kept = append(kept, pair)
			}
		}
		r.Path = bare
		if len(kept) > 0 {
			r.Path += "?" + strings.Join(kept, "&")
		}
	}
}

// span is the first run of characters that a token can have: what follows a prefix may be quoted or listed.
func span(s string) string {
	from := strings.IndexFunc(s, inToken)
	if from < 0 {
		return s
	}
	s = s[from:]
	if to := strings.IndexFunc(s, func(r rune) bool { return !inToken(r) }); to >= 0 {
		s = s[:to]
	}
	return s
}

func inToken(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.'
}

func unescape(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}
