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
	steers                bool // sets request headers that the router looks at
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
	for i := range out.reqAdd {
		out.steers = out.steers || strings.HasPrefix(out.reqAdd[i].name, "X-Envoy-")
	}
	return out, nil
}

func canonical(names []string) []string {
	if len(names) == 0 {
		return nil
	}
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = textproto.CanonicalMIMEHeaderKey(n)
	}
	return out
}

func compileAdds(opts []*corev3.HeaderValueOption) ([]headerAdd, error) {
	var out []headerAdd
	for _, o := range opts {
		a, err := compileAdd(o)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func compileAdd(o *corev3.HeaderValueOption) (headerAdd, error) {
	if err := fields.Check(o, "header append append_action keep_empty_value"); err != nil {
		return headerAdd{}, err
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
		f, err := compileFormat(a.value)
		if err != nil {
			return a, err
		}
		a.format = f
	}
	return a, nil
}

// compileFormat compiles a header's value; what is not there leaves nothing in it.
func compileFormat(text string) (*accesslog.Formatter, error) {
	return accesslog.Compile(&corev3.SubstitutionFormatString{
		OmitEmptyValues: true,
		Format: &corev3.SubstitutionFormatString_TextFormatSource{
			TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: text}},
		},
	})
}

func (a *headerAdd) render(s *Stream) string {
	if a.format == nil {
		return a.value
	}
	return string(a.format.Format(s.entry()))
}

func (o *headerOps) request(s *Stream) {
	for _, n := range o.reqRemove {
		s.req.Header.Del(n)
	}
	addAll(o.reqAdd, s, s.req.Header)
}

func (o *headerOps) response(s *Stream, h http.Header) {
	for _, n := range o.respRemove {
		delete(h, n)
	}
	addAll(o.respAdd, s, h)
}

// addAll applies adds to h. All values and conditions are those from before the first change; overwriting comes before
// appending.
func addAll(adds []headerAdd, s *Stream, h http.Header) {
	if len(adds) == 0 {
		return
	}
	var room [8]string
	values := room[:0]
	for i := range adds {
		a := &adds[i]
		v := a.render(s)
		if v == "" && !a.empty {
			values = append(values, skipped)
			continue
		}
		_, exists := h[a.name]
		if exists && a.action == corev3.HeaderValueOption_ADD_IF_ABSENT || !exists && a.action == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS {
			v = skipped
		}
		values = append(values, v)
	}
	for i := range adds {
		if a := &adds[i]; a.overwrites() && values[i] != skipped {
			s.set(h, a.name, values[i])
		}
	}
	for i := range adds {
		if a := &adds[i]; !a.overwrites() && values[i] != skipped {
			if len(a.name) > 0 && a.name[0] == ':' || a.name == "Host" {
				s.set(h, a.name, values[i])
				continue
			}
			h[a.name] = append(h[a.name], values[i])
		}
	}
}

const skipped = "\x00" // no header has it

func (a *headerAdd) overwrites() bool {
	return a.action == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD || a.action == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS
}

// set sets one header, a pseudo-header of the request among them.
func (s *Stream) set(h http.Header, name, v string) {
	switch name {
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
		h[name] = []string{v}
	}
}

// first returns the first value of a header by its canonical name.
func first(h http.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}
