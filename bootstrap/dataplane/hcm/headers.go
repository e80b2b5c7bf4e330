package hcm

import (
	"net/http"
	"net/textproto"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// headerOps are the header mutations of one level: route, virtual host, route configuration, weighted cluster.
type headerOps struct {
	reqAdd, respAdd       []headerAdd
	reqRemove, respRemove []string
}

type headerAdd struct {
	name   string
	value  string
	format *accesslog.Formatter // when the value has operators
	action corev3.HeaderValueOption_HeaderAppendAction
	empty  bool
}

// headerSource is what all protos with header mutations share.
type headerSource interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

func compileHeaderOps(s headerSource) (headerOps, error) {
	var out headerOps
	var err error
	if out.reqAdd, err = compileAdds(s.GetRequestHeadersToAdd()); err != nil {
		return out, err
	}
	if out.respAdd, err = compileAdds(s.GetResponseHeadersToAdd()); err != nil {
		return out, err
	}
	out.reqRemove = canonical(s.GetRequestHeadersToRemove())
	out.respRemove = canonical(s.GetResponseHeadersToRemove())
	return out, nil
}

func canonical(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = textproto.CanonicalMIMEHeaderKey(n)
	}
	return out
}

func compileAdds(opts []*corev3.HeaderValueOption) ([]headerAdd, error) {
	var out []headerAdd
	for _, o := range opts {
		if err := fields.Check(o, "header append append_action keep_empty_value"); err != nil {
			return nil, err
		}
		a := headerAdd{
			name: o.GetHeader().GetKey(), value: o.GetHeader().GetValue(), action: o.GetAppendAction(), empty: o.GetKeepEmptyValue(),
		}
		if raw := o.GetHeader().GetRawValue(); len(raw) > 0 {
			a.value = string(raw)
		}
		//nolint:staticcheck // deprecated, still sent
		if ap := o.GetAppend(); ap != nil && !ap.GetValue() {
			a.action = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
		}
		if !strings.HasPrefix(a.name, ":") {
			a.name = textproto.CanonicalMIMEHeaderKey(a.name)
		}
		if strings.Contains(a.value, "%") {
			f, err := accesslog.CompileText(a.value)
			if err != nil {
				return nil, err
			}
			a.format = f
		}
		out = append(out, a)
	}
	return out, nil
}

func (a *headerAdd) render(s *Stream) string {
	if a.format == nil {
		return a.value
	}
	v := string(a.format.Format(s.entry()))
	if v == "-" {
		return ""
	}
	return v
}

func (o *headerOps) request(s *Stream) {
	for _, n := range o.reqRemove {
		s.req.Header.Del(n)
	}
	for i := range o.reqAdd {
		a := &o.reqAdd[i]
		v := a.render(s)
		if v == "" && !a.empty {
			continue
		}
		switch a.name {
		case ":authority", "Host":
			s.authority = v
			s.req.Host = v
		case ":path":
			s.path = v
		case ":method":
			s.req.Method = v
		case ":scheme":
			s.scheme = v
		default:
			a.apply(s.req.Header, v)
		}
	}
}

func (o *headerOps) response(s *Stream, h http.Header) {
	for _, n := range o.respRemove {
		h.Del(n)
	}
	for i := range o.respAdd {
		a := &o.respAdd[i]
		if v := a.render(s); v != "" || a.empty {
			a.apply(h, v)
		}
	}
}

func (a *headerAdd) apply(h http.Header, v string) {
	_, exists := h[a.name]
	switch a.action {
	case corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD:
		h[a.name] = append(h[a.name], v)
	case corev3.HeaderValueOption_ADD_IF_ABSENT:
		if !exists {
			h[a.name] = []string{v}
		}
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
		h[a.name] = []string{v}
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
		if exists {
			h[a.name] = []string{v}
		}
	}
}
