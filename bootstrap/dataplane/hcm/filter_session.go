package hcm

import (
	"encoding/base64"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	sessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	cookiev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/cookie/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/header/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
)

// sessionKeeper ties a client to the host that served it first, by a cookie or a header that holds the host's address.
type sessionKeeper struct {
	strict bool
	read   func(*Stream) string
	write  func(h http.Header, host string, now time.Time)
}

// session is a request's tie: host is empty for a client without one.
type session struct {
	keeper *sessionKeeper
	host   string
	strict bool
}

// newSession ties clients to hosts; istiod configures it for each route, and an empty filter for the whole.
func newSession(_ *Manager, name string, body *anypb.Any) (filter, error) {
	p := &sessionv3.StatefulSession{}
	if err := body.UnmarshalTo(p); err != nil {
		return filter{}, err
	}
	all, err := compileSession(p)
	if err != nil {
		return filter{}, err
	}
	f := filter{name: name}
	f.request = func(s *Stream) *reply {
		k := all
		switch per := s.perFilter(name).(type) {
		case disabledPerRoute:
			return nil
		case *sessionKeeper:
			k = per
		}
		if k != nil {
			s.sticky = &session{keeper: k, host: k.read(s), strict: k.strict}
		}
		return nil
	}
	f.response = func(s *Stream, _ int, h http.Header) {
		if s.sticky != nil && s.host != nil && s.host.Address != s.sticky.host {
			s.sticky.keeper.write(h, s.host.Address, time.Now())
		}
	}
	return f, nil
}

func sessionPerRoute(body *anypb.Any) (any, error) {
	p := &sessionv3.StatefulSessionPerRoute{}
	if err := body.UnmarshalTo(p); err != nil {
		return nil, err
	}
	if p.GetDisabled() {
		return disabledPerRoute{}, nil
	}
	k, err := compileSession(p.GetStatefulSession())
	if k == nil && err == nil {
		return disabledPerRoute{}, nil
	}
	return k, err
}

// compileSession gives nil where no state is configured.
func compileSession(p *sessionv3.StatefulSession) (*sessionKeeper, error) {
	if err := fields.Check(p, "session_state strict"); err != nil {
		return nil, err
	}
	st := p.GetSessionState()
	if st == nil {
		return nil, nil
	}
	k := &sessionKeeper{strict: p.GetStrict()}
	switch url := st.GetTypedConfig().GetTypeUrl(); url {
	case registry.CookieSession:
		c := &cookiev3.CookieBasedSessionState{}
		if err := st.GetTypedConfig().UnmarshalTo(c); err != nil {
			return nil, err
		}
		k.keepCookie(newCookie{
			name: c.GetCookie().GetName(), path: c.GetCookie().GetPath(), ttl: c.GetCookie().GetTtl().AsDuration(),
			extra: cookieAttributes(c.GetCookie().GetAttributes()),
		})
	case registry.HeaderSession:
		h := &headerv3.HeaderBasedSessionState{}
		if err := st.GetTypedConfig().UnmarshalTo(h); err != nil {
			return nil, err
		}
		k.keepHeader(textproto.CanonicalMIMEHeaderKey(h.GetName()))
	default:
		return nil, fields.UnsupportedType("session state", st.GetName(), url)
	}
	return k, nil
}

func (k *sessionKeeper) keepCookie(c newCookie) {
	k.read = func(s *Stream) string {
		if !underPath(s.path, c.path) {
			return ""
		}
		return cookieHost(cookieValue(s.req.Header, c.name), time.Now())
	}
	k.write = func(h http.Header, host string, now time.Time) {
		// The value is a message of an address and the second in which it expires.
		b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), host)
		if c.ttl > 0 {
			b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), uint64(now.Add(c.ttl).Unix()))
		}
		h["Set-Cookie"] = append(h["Set-Cookie"], c.header(base64.StdEncoding.EncodeToString(b)))
	}
}

// cookieHost reads the address in a cookie's value, "" where there is none or it has expired.
func cookieHost(value string, now time.Time) string {
	b, err := base64.StdEncoding.DecodeString(value)
	if err != nil || len(b) == 0 {
		return ""
	}
	var host string
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return ""
		}
		b = b[n:]
		switch {
		case num == 1 && typ == protowire.BytesType:
			v, n := protowire.ConsumeString(b)
			if n < 0 {
				return ""
			}
			host, b = v, b[n:]
		case num == 2 && typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 || int64(v) < now.Unix() {
				return ""
			}
			b = b[n:]
		default:
			return ""
		}
	}
	return host
}

// underPath reports whether a cookie's path covers a request's.
func underPath(path, of string) bool {
	path, _, _ = strings.Cut(path, "?")
	of = strings.TrimSuffix(of, "/")
	return strings.HasPrefix(path, of) && (len(path) == len(of) || path[len(of)] == '/')
}

func (k *sessionKeeper) keepHeader(name string) {
	k.read = func(s *Stream) string {
		b, err := base64.StdEncoding.DecodeString(s.req.Header.Get(name))
		if err != nil {
			return ""
		}
		return string(b)
	}
	k.write = func(h http.Header, host string, _ time.Time) {
		h[name] = []string{base64.StdEncoding.EncodeToString([]byte(host))}
	}
}
