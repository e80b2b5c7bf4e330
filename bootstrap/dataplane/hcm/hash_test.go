package hcm

import (
	"fmt"
	"math/bits"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	sessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
)

func hashRules(t *testing.T, js string) []hashRule {
	t.Helper()
	a := &routev3.RouteAction{}
	must(t, protojson.Unmarshal([]byte(`{"hashPolicy":[`+js+`]}`), a))
	rules, err := compileHash(a.GetHashPolicy())
	must(t, err)
	return rules
}

func TestHash(t *testing.T) {
	const (
		user   = `{"header":{"headerName":"x-user"}}`
		query  = `{"queryParameter":{"name":"q"}}`
		source = `{"connectionProperties":{"sourceIp":true}}`
		cookie = `{"cookie":{"name":"c"}}`
	)
	s := stream(t, &Manager{}, "GET", "http://host/path?p=1&q=a%20b", "X-User", "ann", "Cookie", `z=1; c="x y"`, "X-Two", "b", "X-Two", "a")
	s.remote = netip.MustParseAddrPort("192.0.2.7:4711")
	two := xxhash.NewWithSeed(xxhash.Sum64String("a"))
	_, _ = two.WriteString("b")
	for js, want := range map[string]uint64{
		user:                                xxhash.Sum64String("ann"),
		query:                               xxhash.Sum64String("a b"),
		source:                              xxhash.Sum64String("192.0.2.7"),
		cookie:                              xxhash.Sum64String("x y"),
		`{"header":{"headerName":"x-two"}}`: two.Sum64(),
		`{"header":{"headerName":"x-user","regexRewrite":{"pattern":{"regex":"^(.).*"},"substitution":"\\1"}}}`: xxhash.Sum64String("a"),
		user + "," + source: bits.RotateLeft64(xxhash.Sum64String("ann"), 1) ^ xxhash.Sum64String("192.0.2.7"),
		strings.Replace(user, "}}", `},"terminal":true}`, 1) + "," + source: xxhash.Sum64String("ann"),
		`{"header":{"headerName":"absent"},"terminal":true},` + source:      xxhash.Sum64String("192.0.2.7"),
	} {
		if got, ok := s.hash(hashRules(t, js)); !ok || got != want {
			t.Errorf("%s: %x %v, want %x", js, got, ok, want)
		}
	}
	for _, js := range []string{`{"header":{"headerName":"absent"}}`, `{"queryParameter":{"name":"absent"}}`, `{"cookie":{"name":"absent"}}`} {
		if _, ok := s.hash(hashRules(t, js)); ok {
			t.Errorf("%s gave a hash", js)
		}
	}
}

func TestMadeCookie(t *testing.T) {
	rules := hashRules(t, `{"cookie":{"name":"sticky","path":"/p","ttl":"90s","attributes":[{"name":"SameSite","value":"Strict"}]}}`)
	s := stream(t, &Manager{}, "GET", "http://host/")
	h, ok := s.hash(rules)
	if again, _ := s.hash(rules); !ok || h != again || len(s.cookies) != 1 {
		t.Errorf("one cookie for a connection: %x %x %v", h, again, s.cookies)
	}
	name, rest, _ := strings.Cut(s.cookies[0], ";")
	if !strings.HasPrefix(name, `sticky="`) || rest != " Max-Age=90; Path=/p; SameSite=Strict; HttpOnly" {
		t.Errorf("%s", s.cookies[0])
	}
	back := stream(t, &Manager{}, "GET", "http://host/", "Cookie", name)
	if got, _ := back.hash(rules); got != h || len(back.cookies) != 0 {
		t.Errorf("the cookie that comes back: %x, want %x; new %v", got, h, back.cookies)
	}
	session := hashRules(t, `{"cookie":{"name":"s","ttl":"0s"}}`)
	if _, ok := s.hash(session); !ok || strings.Contains(s.cookies[1], "Max-Age") {
		t.Errorf("a session cookie has no age: %v", s.cookies)
	}
}

func sessions(t *testing.T, state string) filter {
	t.Helper()
	p := &sessionv3.StatefulSession{}
	must(t, protojson.Unmarshal([]byte(`{"sessionState":{"name":"x","typedConfig":`+state+`}}`), p))
	body, err := anypb.New(p)
	must(t, err)
	f, err := newSession(nil, "session", body)
	must(t, err)
	return f
}

func TestSessions(t *testing.T) {
	const ext = `{"@type":"type.googleapis.com/envoy.extensions.http.stateful_session.`
	host := &cluster.Endpoint{Address: "10.0.0.1:80"}
	for name, c := range map[string]struct{ state, sends, gets string }{
		"cookie": {ext + `cookie.v3.CookieBasedSessionState","cookie":{"name":"s","path":"/a"}}`, "Cookie", "Set-Cookie"},
		"timed":  {ext + `cookie.v3.CookieBasedSessionState","cookie":{"name":"s","path":"/","ttl":"60s"}}`, "Cookie", "Set-Cookie"},
		"header": {ext + `header.v3.HeaderBasedSessionState","name":"x-session"}`, "X-Session", "X-Session"},
	} {
		f := sessions(t, c.state)
		first := stream(t, &Manager{}, "GET", "http://host/a/b")
		f.request(first)
		if first.sticky == nil || first.sticky.host != "" {
			t.Fatalf("%s: %+v", name, first.sticky)
		}
		first.host = host
		h := http.Header{}
		f.response(first, 200, h)
		value, attributes, _ := strings.Cut(h.Get(c.gets), ";")
		if value == "" || (name == "timed") != strings.Contains(attributes, "Max-Age=60") {
			t.Fatalf("%s: response %v", name, h)
		}
		next := stream(t, &Manager{}, "GET", "http://host/a/b", c.sends, value)
		f.request(next)
		if next.sticky.host != host.Address || next.wanted().Sticky != "" {
			t.Errorf("%s: the session is with %q", name, next.sticky.host)
		}
		next.host = host
		h = http.Header{}
		if f.response(next, 200, h); len(h) != 0 {
			t.Errorf("%s: the session is told again: %v", name, h)
		}
		if name == "cookie" {
			other := stream(t, &Manager{}, "GET", "http://host/ab", c.sends, value)
			if f.request(other); other.sticky.host != "" {
				t.Error("the cookie's path does not cover this")
			}
		}
	}
	if h := cookieHost("CgwxMC4wLjAuMTo4MBAB", time.Now()); h != "" {
		t.Errorf("an expired session is with %q", h)
	}
	for _, bad := range []string{"", "%%", "/////w==", "CgA=", fmt.Sprint("Cv8", "=")} {
		if h := cookieHost(bad, time.Now()); h != "" {
			t.Errorf("%q holds %q", bad, h)
		}
	}
}
