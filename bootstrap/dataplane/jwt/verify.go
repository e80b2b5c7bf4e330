package jwt

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

// Request is what verification sees of a request and leaves on it.
type Request struct {
	Context context.Context //nolint:containedctx // it is the request's own
	Header  http.Header     // canonical names; tokens are removed from it, claims set in it
	Path    string          // with query; tokens are removed from it
	Now     time.Time

	// Metadata is what verified tokens say, by the keys that their providers give; nil where there is nothing.
	Metadata map[string]any
	// Reroute is set when something was found by which the route has to be chosen anew.
	Reroute bool
}

// verify checks one token that stands at a place and takes over what it says.
func (p *provider) verify(r *Request, raw string, at place, audiences []string) Status {
	t, status := parse(raw)
	if status == OK {
		status = p.check(r, t, audiences)
	}
	if status != OK {
		if p.failedKey != "" {
			r.note(p.failedKey, map[string]any{"code": float64(status), "message": status.String()})
		}
		return status
	}
	p.takeOver(r, t)
	if !p.forward {
		at.remove(r)
	}
	return OK
}

func (p *provider) check(r *Request, t *token, audiences []string) Status {
	switch {
	case p.issuer != "" && p.issuer != t.iss:
		return UnknownIssuer
	case p.subjects != nil && !p.subjects(t.sub):
		return SubjectNotAllowed
	case p.maxLifetime > 0 && t.exp == 0, p.needsExp && t.exp == 0:
		return MissingExpiration
	case p.maxLifetime > 0 && time.Unix(t.exp, 0).Sub(r.Now) > p.maxLifetime:
		return LifetimeTooLong
	}
	if s := t.timely(r.Now, p.skew); s != OK {
		return s
	}
	if !audienceAllowed(audiences, t.aud) {
		return AudienceNotAllowed
	}
	keys, s := p.keys.load(r)
	if s != OK {
		return s
	}
	return keys.verify(t)
}

func (r *Request) note(key string, v any) {
	if r.Metadata == nil {
		r.Metadata = map[string]any{}
	}
	r.Metadata[key] = v
}

// takeOver hands a verified token's claims on: in headers and in metadata.
func (p *provider) takeOver(r *Request, t *token) {
	if p.payloadHeader != "" {
		v := t.payload
		if p.pad {
			v += strings.Repeat("=", (4-len(v)%4)%4)
		}
		r.Header[p.payloadHeader] = append(r.Header[p.payloadHeader], v)
	}
	changed := false
	for _, c := range p.claims {
		if v, ok := match.Dig(t.claims, c.path); ok {
			if text, ok := claimText(v); ok {
				r.Header[c.header] = []string{text}
				changed = true
			}
		}
	}
	if p.payloadKey != "" {
		r.note(p.payloadKey, p.normalized(t.claims))
		changed = true
	}
	if p.headerKey != "" {
		r.note(p.headerKey, t.header)
	}
	r.Reroute = r.Reroute || p.clearRoute && changed
}

// normalized splits the claims that hold lists separated by spaces.
func (p *provider) normalized(claims map[string]any) map[string]any {
	for _, name := range p.spaceLists {
		s, ok := claims[name].(string)
		if !ok {
			continue
		}
		list := []any{}
		for _, word := range strings.Fields(s) {
			list = append(list, word)
		}
		claims[name] = list
	}
	return claims
}

// claimText writes a claim as a header: objects and lists as base64 of their JSON.
func claimText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return strconv.FormatInt(int64(v), 10), true
		}
		return strconv.FormatFloat(v, 'g', -1, 64), true
	case map[string]any, []any:
		b, err := json.Marshal(v)
		return base64.StdEncoding.EncodeToString(b), err == nil
	}
	return "", false
}
