package hcm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"

	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/extauthz"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

const extAuthzMetadata = "envoy.filters.http.ext_authz"

// extAuthz asks an authorization service about requests.
type extAuthz struct {
	name string
	set  *extauthz.Settings
	coin func() bool

	ok, denied, failed, disabled, failureModeAllowed *stats.Counter
}

// extAuthzRoute is what a route changes about the filter.
type extAuthzRoute struct {
	extensions map[string]string
	noBody     bool
	body       *extauthz.Body
}

func newExtAuthz(m *Manager, name string, body *anypb.Any) (filter, error) {
	p := &authzv3.ExtAuthz{}
	if err := body.UnmarshalTo(p); err != nil {
		return filter{}, err
	}
	set, err := extauthz.Compile(p, m.env.Clusters)
	if err != nil {
		return filter{}, err
	}
	scope := "http." + m.name + ".ext_authz"
	if set.StatPrefix != "" {
		scope += "." + set.StatPrefix
	}
	sc := stats.Scope{Name: scope, Family: "envoy_http_ext_authz", Labels: stats.Label("http_conn_manager_prefix", m.name)}
	count := func(what string) *stats.Counter { return m.env.Stats.Counter(sc, what) }
	e := &extAuthz{
		set: set, name: name, coin: runtimeCoin(set.Enabled, true), ok: count("ok"), denied: count("denied"),
		failed: count("error"), disabled: count("disabled"), failureModeAllowed: count("failure_mode_allowed"),
	}
	return filter{name: name, request: e.request}, nil
}

func (e *extAuthz) request(s *Stream) *reply {
	c := s.perFilter(e.name)
	if _, off := c.(disabledPerRoute); off {
		return nil
	}
	if !e.set.Asked(s.Metadata) || !e.coin() {
		e.disabled.Inc()
		if e.set.DenyDisabled {
			return &reply{status: e.set.ErrorStatus, flags: accesslog.UnauthorizedExternalService, details: "ext_authz_error"}
		}
		return nil
	}
	r, _ := c.(*extAuthzRoute)
	body := e.set.Body
	h := extauthz.HTTP{
		ID: s.req.Header.Get("X-Request-Id"), Method: s.req.Method, Path: s.path, Host: s.authority, Scheme: s.scheme,
		Protocol: s.protocol(), Header: s.req.Header, Size: s.requestLength, Start: s.start, Remote: s.remote,
	}
	if r != nil {
		h.Extensions = r.extensions
		if r.noBody {
			body = nil
		} else if r.body != nil {
			body = r.body
		}
	}
	if body != nil {
		var err error
		if h.Body, h.Partial, err = s.peekBody(body.Max); err != nil {
			return s.over()
		}
		if h.Partial && !body.Partial {
			return &reply{
				status: http.StatusRequestEntityTooLarge, body: "Payload Too Large", details: "request_payload_too_large",
			}
		}
	}
	v, err := e.set.Client.Check(s.ctx, e.set.Request(s.conn, h, body, s.Metadata))
	switch {
	case err != nil && s.ctx.Err() != nil:
		return &reply{flags: accesslog.DownstreamConnectionTermination, details: "downstream_remote_disconnect"}
	case err != nil:
		return e.unanswered(s, err)
	}
	for key, value := range v.Metadata {
		s.setMetadata(extAuthzMetadata, key, value)
	}
	if !v.Allowed {
		e.denied.Inc()
		return refusal(v.Status, v.Body, v.Reply, "ext_authz_denied")
	}
	e.ok.Inc()
	if s.permitted(v) && e.set.ClearRoute {
		s.pick()
	}
	return nil
}

// unanswered says what becomes of a request that the service has given no verdict on.
func (e *extAuthz) unanswered(s *Stream, err error) *reply {
	e.failed.Inc()
	s.m.env.Log.Debug("ext_authz", "err", err)
	if e.set.FailOpen {
		e.failureModeAllowed.Inc()
		if e.set.MarkFailOpen {
			s.req.Header["X-Envoy-Auth-Failure-Mode-Allowed"] = []string{"true"}
		}
		return nil
	}
	var own *extauthz.ServiceError
	if errors.As(err, &own) {
		status := own.Status
		if status == 0 {
			status = e.set.ErrorStatus
		}
		return refusal(status, own.Body, own.Reply, "ext_authz_error")
	}
	return refusal(e.set.ErrorStatus, "", nil, "ext_authz_error")
}

func refusal(status int, body string, edits []extauthz.Edit, details string) *reply {
	rep := &reply{
		status: status, body: body, header: http.Header{}, flags: accesslog.UnauthorizedExternalService, details: details,
	}
	for _, e := range edits {
		e.Apply(rep.header)
	}
	return rep
}

// permitted changes the request as the service says. It reports whether any header has changed.
func (s *Stream) permitted(v *extauthz.Verdict) bool {
	changed := false
	for _, e := range v.Request {
		changed = s.edit(e) || changed
	}
	for _, n := range v.Remove {
		if n = http.CanonicalHeaderKey(n); n != "Host" && !strings.HasPrefix(n, ":") {
			if _, there := s.req.Header[n]; there {
				delete(s.req.Header, n)
				changed = true
			}
		}
	}
	if p := v.Query(s.path); p != s.path {
		s.path, changed = p, true
	}
	if len(v.Response) > 0 {
		s.atResponse(func(h http.Header) {
			for _, e := range v.Response {
				e.Apply(h)
			}
		})
	}
	return changed
}

// edit changes a header or pseudo-header of the request.
func (s *Stream) edit(e extauthz.Edit) bool {
	switch strings.ToLower(e.Name) {
	case ":path":
		s.path = e.Value
	case ":method":
		s.req.Method = e.Value
	case ":authority", "host":
		s.authority = e.Value
	case ":scheme":
		s.scheme = e.Value
	case "content-length", "transfer-encoding", "connection":
		return false // they frame this message, not the service's
	default:
		return e.Apply(s.req.Header)
	}
	return true
}

// peekBody reads up to limit bytes of the request's body and puts them back. more is set when there are others.
func (s *Stream) peekBody(limit int) (body []byte, more bool, err error) {
	src := s.req.Body
	if src == nil || src == http.NoBody || s.req.ContentLength == 0 {
		return nil, false, nil
	}
	read, err := io.ReadAll(io.LimitReader(src, int64(limit)+1))
	if err != nil {
		return nil, false, err
	}
	s.req.Body = &joinedBody{Reader: io.MultiReader(bytes.NewReader(read), src), Closer: src}
	return read[:min(len(read), limit)], len(read) > limit, nil
}

type joinedBody struct {
	io.Reader
	io.Closer
}

func (s *Stream) protocol() string {
	if s.req.ProtoMajor == 2 {
		return "HTTP/2"
	}
	return s.req.Proto
}

func extAuthzPerRoute(body *anypb.Any) (any, error) {
	p := &authzv3.ExtAuthzPerRoute{}
	if err := body.UnmarshalTo(p); err != nil {
		return nil, err
	}
	if p.GetDisabled() {
		return disabledPerRoute{}, nil
	}
	c := p.GetCheckSettings()
	if c == nil {
		return nil, fmt.Errorf("disabled or check_settings has to be set")
	}
	if err := fields.Check(c, "context_extensions disable_request_body_buffering with_request_body"); err != nil {
		return nil, err
	}
	out := &extAuthzRoute{extensions: maps.Clone(c.GetContextExtensions()), noBody: c.GetDisableRequestBodyBuffering()}
	var err error
	out.body, err = extauthz.CompileBody(c.GetWithRequestBody())
	return out, err
}
