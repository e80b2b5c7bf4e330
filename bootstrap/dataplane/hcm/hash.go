package hcm

import (
	"fmt"
	"math/bits"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

// hashRule takes one part of a request into the hash that consistent hashing goes by.
type hashRule struct {
	of       func(*Stream) (uint64, bool)
	terminal bool // what comes after does not matter once there is a hash
}

func compileHash(policies []*routev3.RouteAction_HashPolicy) ([]hashRule, error) {
	var out []hashRule
	for _, p := range policies {
		r := hashRule{terminal: p.GetTerminal()}
		var err error
		switch v := p.GetPolicySpecifier().(type) {
		case *routev3.RouteAction_HashPolicy_Header_:
			r.of, err = hashHeader(v.Header)
		case *routev3.RouteAction_HashPolicy_Cookie_:
			r.of, err = hashCookie(v.Cookie)
		case *routev3.RouteAction_HashPolicy_ConnectionProperties_:
			if !v.ConnectionProperties.GetSourceIp() {
				continue
			}
			r.of = func(s *Stream) (uint64, bool) {
				return xxhash.Sum64String(s.remote.Addr().String()), s.remote.IsValid()
			}
		case *routev3.RouteAction_HashPolicy_QueryParameter_:
			r.of = hashQuery(v.QueryParameter.GetName())
		default:
			err = fields.Unsupported(p, fmt.Sprintf("policy_specifier (%T)", v), "")
		}
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// hash combines the rules' hashes. It reports false when none of them finds anything.
func (s *Stream) hash(rules []hashRule) (uint64, bool) {
	var out uint64
	found := false
	for i := range rules {
		h, ok := rules[i].of(s)
		if ok {
			out = bits.RotateLeft64(out, 1) ^ h
			found = true
		}
		if found && rules[i].terminal {
			break
		}
	}
	return out, found
}

func hashHeader(p *routev3.RouteAction_HashPolicy_Header) (func(*Stream) (uint64, bool), error) {
	if err := fields.Check(p, "header_name regex_rewrite"); err != nil {
		return nil, err
	}
	var re *regexp.Regexp
	var subst string
	if rw := p.GetRegexRewrite(); rw != nil {
		var err error
		if re, err = match.Regex(rw.GetPattern()); err != nil {
			return nil, err
		}
		subst = expandable(rw.GetSubstitution())
	}
	name := strings.ToLower(p.GetHeaderName())
	return func(s *Stream) (uint64, bool) {
		values := s.headerValues(name)
		if len(values) == 0 {
			return 0, false
		}
		if re == nil && len(values) == 1 {
			return xxhash.Sum64String(values[0]), true
		}
		values = slices.Clone(values)
		if re != nil {
			for i, v := range values {
				values[i] = re.ReplaceAllString(v, subst)
			}
		}
		slices.Sort(values) // their order on the wire does not matter
		var h uint64
		for _, v := range values {
			d := xxhash.NewWithSeed(h)
			_, _ = d.WriteString(v)
			h = d.Sum64()
		}
		return h, true
	}, nil
}

func hashQuery(name string) func(*Stream) (uint64, bool) {
	return func(s *Stream) (uint64, bool) {
		_, query, _ := strings.Cut(s.path, "?")
		for pair := range strings.SplitSeq(query, "&") {
			k, v, _ := strings.Cut(pair, "=")
			if k != name {
				continue
			}
			if un, err := url.PathUnescape(v); err == nil {
				v = un
			}
			return xxhash.Sum64String(v), true
		}
		return 0, false
	}
}

func hashCookie(p *routev3.RouteAction_HashPolicy_Cookie) (func(*Stream) (uint64, bool), error) {
	if err := fields.Check(p, "name ttl path attributes"); err != nil {
		return nil, err
	}
	c := newCookie{name: p.GetName(), path: p.GetPath(), ttl: p.GetTtl().AsDuration(), extra: cookieAttributes(p.GetAttributes())}
	makes := p.GetTtl() != nil
	return func(s *Stream) (uint64, bool) {
		v := cookieValue(s.req.Header, c.name)
		if v == "" && makes {
			v = s.madeCookie(c)
		}
		return xxhash.Sum64String(v), v != ""
	}, nil
}

func cookieValue(h http.Header, name string) string {
	for _, line := range h["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			k, v, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if k == name {
				if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
					v = v[1 : len(v)-1]
				}
				return v
			}
		}
	}
	return ""
}

// newCookie is a cookie that clients are given.
type newCookie struct {
	name, path, extra string
	ttl               time.Duration
}

func (c newCookie) header(value string) string {
	var b strings.Builder
	b.WriteString(c.name + `="` + value + `"`)
	if c.ttl > 0 {
		b.WriteString("; Max-Age=" + strconv.FormatInt(int64(c.ttl/time.Second), 10))
	}
	if c.path != "" {
		b.WriteString("; Path=" + c.path)
	}
	b.WriteString(c.extra)
	b.WriteString("; HttpOnly")
	return b.String()
}

func cookieAttributes[A interface {
	GetName() string
	GetValue() string
}](list []A) string {
	var b strings.Builder
	for _, a := range list {
		b.WriteString("; " + a.GetName())
		if a.GetValue() != "" {
			b.WriteString("=" + a.GetValue())
		}
	}
	return b.String()
}

// madeCookie gives the client a cookie with the response and returns its value, the same for all requests of a connection
// so that requests side by side agree.
func (s *Stream) madeCookie(c newCookie) string {
	seed := s.conn.Remote.String() + s.conn.Local.String() + strconv.FormatUint(s.conn.ID, 10) + s.conn.Start.String()
	value := fmt.Sprintf("%016x", xxhash.Sum64String(seed))
	line := c.header(value)
	if !slices.Contains(s.cookies, line) {
		s.cookies = append(s.cookies, line)
	}
	return value
}
