package hcm

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	tagsv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tracing"
)

func timeNow() time.Time { return time.Now() }

// customTag is a tag that the configuration adds; no value leaves it out.
type customTag struct {
	name  string
	value func(*Stream) (string, bool)
}

func compileTags(list []*tagsv3.CustomTag) ([]customTag, error) {
	var out []customTag
	for _, p := range list {
		t := customTag{name: p.GetTag()}
		fixed := func(v string) func(*Stream) (string, bool) {
			return func(*Stream) (string, bool) { return v, v != "" }
		}
		switch k := p.GetType().(type) {
		case *tagsv3.CustomTag_Literal_:
			t.value = fixed(k.Literal.GetValue())
		case *tagsv3.CustomTag_Environment_:
			v := os.Getenv(k.Environment.GetName())
			if v == "" {
				v = k.Environment.GetDefaultValue()
			}
			t.value = fixed(v)
		case *tagsv3.CustomTag_RequestHeader:
			name, otherwise := http.CanonicalHeaderKey(k.RequestHeader.GetName()), k.RequestHeader.GetDefaultValue()
			t.value = func(s *Stream) (string, bool) {
				if v := s.headerValues(name); len(v) > 0 {
					return v[0], true
				}
				return otherwise, otherwise != ""
			}
		case *tagsv3.CustomTag_Metadata_:
			f, err := metadataTag(k.Metadata)
			if err != nil {
				return nil, err
			}
			t.value = f
		case *tagsv3.CustomTag_Value:
			f, err := accesslog.CompileText(k.Value)
			if err != nil {
				return nil, fmt.Errorf("custom tag %q: %w", p.GetTag(), err)
			}
			f.OmitEmpty()
			t.value = func(s *Stream) (string, bool) {
				v := string(f.Format(s.entry()))
				return v, v != ""
			}
		default:
			return nil, fields.Unsupported(p, fmt.Sprintf("type (%T)", k), "")
		}
		out = append(out, t)
	}
	return out, nil
}

func metadataTag(p *tagsv3.CustomTag_Metadata) (func(*Stream) (string, bool), error) {
	src := accesslog.Dynamic
	switch k := p.GetKind(); {
	case k.GetKind() == nil, k.GetRequest() != nil:
	case k.GetRoute() != nil:
		src = accesslog.Route
	case k.GetCluster() != nil:
		src = accesslog.Cluster
	case k.GetHost() != nil:
		src = accesslog.UpstreamHost
	default:
		return nil, fields.Unsupported(p, "kind", "")
	}
	var path []string
	for _, seg := range p.GetMetadataKey().GetPath() {
		path = append(path, seg.GetKey())
	}
	filter, otherwise := p.GetMetadataKey().GetKey(), p.GetDefaultValue()
	return func(s *Stream) (string, bool) {
		v, ok := s.entry().Metadata(src, filter, path)
		if !ok || v == nil {
			return otherwise, otherwise != ""
		}
		switch v := v.(type) {
		case string:
			return v, true
		case bool:
			return strconv.FormatBool(v), true
		case float64:
			return strconv.FormatFloat(v, 'g', -1, 64), true
		}
		raw, err := json.Marshal(v)
		return string(raw), err == nil
	}, nil
}

// endSpan gives the spans of a finished request their tags and reports them.
func (s *Stream) endSpan() {
	t, sp := s.m.tracing, s.span
	s.endAttempt()
	if sp.Sampled {
		h := s.req.Header
		or := func(name string) string {
			if v := firstOf(h[name]); v != "" {
				return v
			}
			return "-"
		}
		sp.Set("component", "proxy")
		sp.Set("node_id", s.m.env.Identity.GetId())
		sp.Set("zone", s.m.env.Identity.GetLocality().GetZone())
		if id := firstOf(h["X-Request-Id"]); id != "" {
			sp.Set("guid:x-request-id", id)
		}
		path := s.path
		if s.original != "" {
			path = s.original
		}
		if len(path) > t.maxPath {
			path = path[:t.maxPath]
		}
		sp.Set("http.url", s.scheme+"://"+s.authority+path)
		sp.Set("http.method", s.req.Method)
		sp.Set("downstream_cluster", or("X-Envoy-Downstream-Service-Cluster"))
		sp.Set("user_agent", or("User-Agent"))
		sp.Set("http.protocol", s.protocol())
		sp.Set("peer.address", s.conn.Direct.Addr().String())
		if id := firstOf(h["X-Client-Trace-Id"]); id != "" {
			sp.Set("guid:x-client-trace-id", id)
		}
		if s.isGRPC() {
			sp.Set("grpc.path", s.path)
			sp.Set("grpc.authority", s.authority)
			sp.Set("grpc.content_type", firstOf(h["Content-Type"]))
			if v := firstOf(h["Grpc-Timeout"]); v != "" {
				sp.Set("grpc.timeout", v)
			}
			s.grpcTags(sp)
		}
		sp.Set("request_size", strconv.FormatUint(s.received.n.Load(), 10))
		sp.Set("response_size", strconv.FormatUint(s.sent, 10))
		s.commonTags(sp)
	}
	sp.Finish(s.end)
}

func (s *Stream) grpcTags(sp *tracing.Span) {
	for key, name := range map[string]string{"grpc.status_code": "Grpc-Status", "grpc.message": "Grpc-Message"} {
		v := firstOf(s.respTrailer[name])
		if v == "" {
			v = firstOf(s.respHeader[name])
		}
		if v != "" {
			sp.Set(key, v)
		}
	}
}

// endAttempt ends the span of the latest attempt, where attempts have spans.
func (s *Stream) endAttempt() {
	sp := s.upSpan
	if sp == nil {
		return
	}
	s.upSpan = nil
	if sp.Sampled {
		sp.Set("component", "proxy")
		if s.trace != nil && s.trace.Protocol != "" {
			sp.Set("http.protocol", s.trace.Protocol)
		}
		if s.host != nil {
			sp.Set("upstream_address", s.host.Address)
			sp.Set("peer.address", s.host.Address)
		}
		s.commonTags(sp)
	}
	sp.Finish(timeNow())
}

// commonTags are those of every span.
func (s *Stream) commonTags(sp *tracing.Span) {
	if s.cluster != nil {
		sp.Set("upstream_cluster", s.clusterN)
		name := s.cluster.Proto.GetAltStatName()
		if name == "" {
			name = s.clusterN
		}
		sp.Set("upstream_cluster.name", name)
	}
	sp.Set("http.status_code", strconv.Itoa(s.status))
	if s.status == 0 || s.status >= http.StatusInternalServerError {
		sp.Set("error", "true")
	}
	sp.Set("response_flags", s.flags.String())
	if s.m.tracing.verbose {
		sp.Log(s.requestEnd(), "last_downstream_rx_byte_received")
		if s.trace != nil {
			sp.Log(s.trace.Sent(), "last_upstream_tx_byte_sent")
			sp.Log(s.trace.Answered, "first_upstream_rx_byte_received")
		}
		sp.Log(s.end, "last_downstream_tx_byte_sent")
	}
	tags := s.m.tracing.tags
	if s.route != nil && s.route.tracing != nil {
		tags = append(tags[:len(tags):len(tags)], s.route.tracing.tags...)
	}
	for i := range tags {
		if v, ok := tags[i].value(s); ok {
			sp.Set(tags[i].name, v)
		}
	}
}
