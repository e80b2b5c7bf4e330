package accesslog

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

// roots are the names that an expression can start with.
var roots = []string{
	"request", "response", "connection", "upstream", "source", "destination", "metadata", "filter_state",
	"upstream_filter_state", "xds", "node", "upstream_peer", "downstream_peer", "upstream_peer_id", "downstream_peer_id",
}

var structValueType = reflect.TypeFor[*structpb.Value]()

// activation resolves the roots for one entry.
type activation struct{ e *Entry }

var _ interpreter.Activation = activation{}

// Parent implements interpreter.Activation.
func (activation) Parent() interpreter.Activation { return nil }

// ResolveName implements interpreter.Activation.
func (a activation) ResolveName(name string) (any, bool) {
	e := a.e
	if fields, ok := attributes[name]; ok {
		return group{find: func(key string) (any, bool) {
			get, ok := fields[key]
			if !ok {
				return nil, false
			}
			return get(e)
		}}, true
	}
	switch name {
	case "metadata":
		return group{find: func(key string) (any, bool) {
			if key != "filter_metadata" {
				return nil, false
			}
			return e.metadataOf(Dynamic), true
		}}, true
	case "filter_state", "upstream_filter_state":
		return group{find: e.state}, true
	case "upstream_peer", "downstream_peer", "upstream_peer_id", "downstream_peer_id":
		return e.state(name)
	case "node":
		if e.Node == nil {
			return nil, false
		}
		raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e.Node)
		if err != nil {
			return nil, false
		}
		s := &structpb.Struct{}
		if protojson.Unmarshal(raw, s) != nil {
			return nil, false
		}
		return s.AsMap(), true
	}
	return nil, false
}

func (e *Entry) state(key string) (any, bool) {
	if e.FilterState == nil {
		return nil, false
	}
	v, ok := e.FilterState(key)
	return plainValue(v), ok
}

// metadataOf shows the metadata of a source by filter.
func (e *Entry) metadataOf(src MetadataSource) group {
	return group{find: func(filter string) (any, bool) {
		if e.Metadata == nil {
			return nil, false
		}
		v, ok := e.Metadata(src, filter, nil)
		return plainValue(v), ok
	}}
}

type attribute = func(*Entry) (any, bool)

func always(get func(*Entry) any) attribute {
	return func(e *Entry) (any, bool) { return get(e), true }
}

func optionalText(get func(*Entry) string) attribute {
	return func(e *Entry) (any, bool) { s := get(e); return s, s != "" }
}

func headerValue(get func(*Entry) http.Header, name string) attribute {
	return func(e *Entry) (any, bool) {
		v := get(e)[name]
		return strings.Join(v, ","), len(v) > 0
	}
}

var (
	requestHeaders  = func(e *Entry) http.Header { return e.Request }
	responseHeaders = func(e *Entry) http.Header { return e.Response }
)

func hasRequest(e *Entry) bool  { return e.Protocol != "" }
func hasResponse(e *Entry) bool { return e.ResponseCode > 0 }

func when(has func(*Entry) bool, get func(*Entry) any) attribute {
	return func(e *Entry) (any, bool) {
		if !has(e) {
			return nil, false
		}
		return get(e), true
	}
}

func span(from, to func(*Entry) time.Time) attribute {
	return func(e *Entry) (any, bool) {
		a, b := from(e), to(e)
		return b.Sub(a), !a.IsZero() && !b.IsZero()
	}
}

func headerBytes(h http.Header) int64 {
	n := 0
	for k, vs := range h {
		for _, v := range vs {
			n += len(k) + len(v)
		}
	}
	return int64(n)
}

func cutPath(e *Entry) (string, string) {
	p, q, _ := strings.Cut(e.Path, "?")
	return p, q
}

func bare(v string, ok bool) (any, bool) { return v, ok }

var attributes map[string]map[string]attribute

func init() {
	attributes = map[string]map[string]attribute{
		"request": {
			"path":       when(hasRequest, func(e *Entry) any { return e.Path }),
			"url_path":   when(hasRequest, func(e *Entry) any { return match.WithoutQuery(e.Path) }),
			"query":      when(hasRequest, func(e *Entry) any { _, q := cutPath(e); return q }),
			"host":       when(hasRequest, func(e *Entry) any { return e.Authority }),
			"scheme":     when(hasRequest, func(e *Entry) any { return e.Scheme }),
			"method":     when(hasRequest, func(e *Entry) any { return e.Method }),
			"referer":    headerValue(requestHeaders, "Referer"),
			"useragent":  headerValue(requestHeaders, "User-Agent"),
			"id":         headerValue(requestHeaders, "X-Request-Id"),
			"protocol":   optionalText(func(e *Entry) string { return e.Protocol }),
			"time":       always(func(e *Entry) any { return e.Start }),
			"duration":   span(started, ended),
			"size":       always(func(e *Entry) any { return int64(e.BytesReceived) }),
			"total_size": always(func(e *Entry) any { return int64(e.BytesReceived) + headerBytes(e.Request) }),
			"headers": always(func(e *Entry) any {
				return group{find: func(k string) (any, bool) { return bare(e.requestHeader(k)) }}
			}),
		},
		"response": {
			"code":         when(hasResponse, func(e *Entry) any { return int64(e.ResponseCode) }),
			"code_details": optionalText(func(e *Entry) string { return e.ResponseCodeDetails }),
			"flags":        always(func(e *Entry) any { return int64(e.Flags) }),
			"grpc_status": func(e *Entry) (any, bool) {
				c, ok := e.GRPCStatus()
				return int64(c), ok
			},
			"headers": always(func(e *Entry) any {
				return group{find: func(k string) (any, bool) {
					if k == ":status" {
						return e.ResponseCode, hasResponse(e)
					}
					return headerValue(responseHeaders, http.CanonicalHeaderKey(k))(e)
				}}
			}),
			"trailers": always(func(e *Entry) any {
				return group{find: func(k string) (any, bool) {
					v := e.Trailers[http.CanonicalHeaderKey(k)]
					return strings.Join(v, ","), len(v) > 0
				}}
			}),
			"size":            always(func(e *Entry) any { return int64(e.BytesSent) }),
			"total_size":      always(func(e *Entry) any { return int64(e.BytesSent) + headerBytes(e.Response) + headerBytes(e.Trailers) }),
			"backend_latency": span(func(e *Entry) time.Time { return e.UpstreamRequestEnd }, responded),
		},
		"connection": certificateAttributes(func(e *Entry) *TLS { return e.Downstream.TLS }, map[string]attribute{
			"id":                       always(func(e *Entry) any { return e.Downstream.ConnectionID }),
			"mtls":                     always(func(e *Entry) any { return e.Downstream.TLS.peer() != nil }),
			"requested_server_name":    optionalText(func(e *Entry) string { return e.Downstream.ServerName }),
			"termination_details":      optionalText(func(e *Entry) string { return e.ConnectionTerminationDetails }),
			"transport_failure_reason": optionalText(func(e *Entry) string { return e.Downstream.TransportFailureReason }),
		}),
		"upstream": certificateAttributes(func(e *Entry) *TLS { return e.Upstream.TLS }, map[string]attribute{
			"address":                  addressOf(upstreamHost),
			"port":                     portOf(upstreamHost),
			"local_address":            addressOf(func(e *Entry) netip.AddrPort { return e.Upstream.LocalAddress }),
			"transport_failure_reason": optionalText(func(e *Entry) string { return e.Upstream.TransportFailureReason }),
			"request_attempt_count":    always(func(e *Entry) any { return uint64(max(0, e.Upstream.Attempts)) }),
		}),
		"source": {
			"address": addressOf(func(e *Entry) netip.AddrPort { return e.Downstream.RemoteAddress }),
			"port":    portOf(func(e *Entry) netip.AddrPort { return e.Downstream.RemoteAddress }),
		},
		"destination": {
			"address": addressOf(func(e *Entry) netip.AddrPort { return e.Downstream.LocalAddress }),
			"port":    portOf(func(e *Entry) netip.AddrPort { return e.Downstream.LocalAddress }),
		},
		"xds": {
			"cluster_name":           optionalText(func(e *Entry) string { return e.Upstream.Cluster }),
			"cluster_metadata":       always(func(e *Entry) any { return e.wrapped(Cluster) }),
			"route_name":             optionalText(func(e *Entry) string { return e.RouteName }),
			"route_metadata":         always(func(e *Entry) any { return e.wrapped(Route) }),
			"virtual_host_name":      optionalText(func(e *Entry) string { return e.VirtualHostName }),
			"upstream_host_metadata": always(func(e *Entry) any { return e.wrapped(UpstreamHost) }),
			"filter_chain_name":      optionalText(func(e *Entry) string { return e.FilterChainName }),
			"listener_direction":     always(func(e *Entry) any { return int64(e.Direction) }),
		},
	}
}

// wrapped shows metadata as the message that holds it: filter_metadata by filter.
func (e *Entry) wrapped(src MetadataSource) group {
	return group{find: func(key string) (any, bool) {
		if key != "filter_metadata" {
			return nil, false
		}
		return e.metadataOf(src), true
	}}
}

func (e *Entry) requestHeader(name string) (string, bool) {
	switch name {
	case ":method", ":path", ":scheme", ":authority", "host":
		return requestHeader(name)(e)
	}
	v := e.Request[http.CanonicalHeaderKey(name)]
	return strings.Join(v, ","), len(v) > 0
}

func addressOf(get func(*Entry) netip.AddrPort) attribute {
	return func(e *Entry) (any, bool) {
		a := get(e)
		if !a.IsValid() {
			return nil, false
		}
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String(), true
	}
}

func portOf(get func(*Entry) netip.AddrPort) attribute {
	return func(e *Entry) (any, bool) { return int64(get(e).Port()), get(e).IsValid() }
}

// certificateAttributes adds what one side's TLS connection tells.
func certificateAttributes(of func(*Entry) *TLS, out map[string]attribute) map[string]attribute {
	add := func(name string, cert func(*TLS) *x509.Certificate, get func(*x509.Certificate) string) {
		out[name] = func(e *Entry) (any, bool) {
			c := cert(of(e))
			if c == nil {
				return nil, false
			}
			s := get(c)
			return s, s != ""
		}
	}
	first := func(list []string) string {
		if len(list) == 0 {
			return ""
		}
		return list[0]
	}
	for suffix, cert := range map[string]func(*TLS) *x509.Certificate{"peer": (*TLS).peer, "local": (*TLS).local} {
		add("subject_"+suffix+"_certificate", cert, func(c *x509.Certificate) string { return c.Subject.String() })
		add("dns_san_"+suffix+"_certificate", cert, func(c *x509.Certificate) string { return first(c.DNSNames) })
		add("uri_san_"+suffix+"_certificate", cert, func(c *x509.Certificate) string {
			if len(c.URIs) == 0 {
				return ""
			}
			return c.URIs[0].String()
		})
	}
	add("sha256_peer_certificate_digest", (*TLS).peer, func(c *x509.Certificate) string {
		sum := sha256.Sum256(c.Raw)
		return hex.EncodeToString(sum[:])
	})
	out["tls_version"] = func(e *Entry) (any, bool) {
		s := of(e).state()
		if s == nil {
			return nil, false
		}
		return versions[s.Version], true
	}
	return out
}

// group is a group of attributes in CEL: a map whose keys cannot be listed.
type group struct{ find func(key string) (any, bool) }

var _ traits.Mapper = group{}

// Find implements traits.Mapper.
func (o group) Find(key ref.Val) (ref.Val, bool) {
	k, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	v, ok := o.find(string(k))
	if !ok || v == nil {
		return nil, false
	}
	if o, isGroup := v.(group); isGroup {
		return o, true
	}
	return types.DefaultTypeAdapter.NativeToValue(v), true
}

// Get implements traits.Indexer.
func (o group) Get(key ref.Val) ref.Val {
	if v, ok := o.Find(key); ok {
		return v
	}
	return types.NewErr("no such key: %v", key)
}

// Contains implements traits.Container.
func (o group) Contains(key ref.Val) ref.Val {
	_, ok := o.Find(key)
	return types.Bool(ok)
}

// Size implements traits.Sizer.
func (group) Size() ref.Val { return types.NewErr("the size of an attribute group is not known") }

// Iterator implements traits.Iterable.
func (group) Iterator() traits.Iterator {
	return types.NewRefValMap(types.DefaultTypeAdapter, nil).Iterator()
}

// Fold implements traits.Foldable.
func (group) Fold(traits.Folder) {}

// ConvertToNative implements ref.Val.
func (group) ConvertToNative(t reflect.Type) (any, error) {
	return types.NewRefValMap(types.DefaultTypeAdapter, nil).ConvertToNative(t)
}

// ConvertToType implements ref.Val.
func (o group) ConvertToType(t ref.Type) ref.Val {
	if t == types.MapType {
		return o
	}
	return types.NewErr("type conversion error from attributes to %v", t)
}

// Equal implements ref.Val.
func (group) Equal(ref.Val) ref.Val { return types.False }

// Type implements ref.Val.
func (group) Type() ref.Type { return types.MapType }

// Value implements ref.Val.
func (o group) Value() any { return o }
