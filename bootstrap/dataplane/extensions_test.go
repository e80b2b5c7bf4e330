package dataplane

import (
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
)

var update = flag.Bool("update", false, "write EXTENSIONS.md anew")

func TestExtensionsDocument(t *testing.T) {
	const file = "EXTENSIONS.md"
	want := registry.Markdown()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the registry says; go test -run TestExtensions -update writes it", file)
	}
}

// places says where in a configuration an extension of a kind stands: a listener or a cluster in JSON, where EXTENSION
// is put in.
var places = map[string]string{
	"access log": `{"name":"l","ADDRESS":0,"filterChains":[{"filters":[{"name":"hcm","typedConfig":{"HCM":0,
		"routeConfig":{"name":"r"},"accessLog":[{"name":"x","typedConfig":"EXTENSION"}],"httpFilters":["ROUTER"]}}]}]}`,
	"access log filter": `{"name":"l","ADDRESS":0,"accessLog":[{"name":"x","filter":{"extensionFilter":{"name":"x","typedConfig":"EXTENSION"}},
		"typedConfig":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog","path":"/dev/null"}}],"CHAIN":0}`,
	"log formatter": `{"name":"l","ADDRESS":0,"accessLog":[{"name":"x",
		"typedConfig":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog","path":"/dev/null",
		"logFormat":{"textFormatSource":{"inlineString":"x"},"formatters":[{"name":"x","typedConfig":"EXTENSION"}]}}}],"CHAIN":0}`,
	"listener filter": `{"name":"l","ADDRESS":0,"listenerFilters":[{"name":"x","typedConfig":"EXTENSION"}],"CHAIN":0}`,
	"network filter":  `{"name":"l","ADDRESS":0,"filterChains":[{"filters":[{"name":"x","typedConfig":"EXTENSION"}]}]}`,
	"http filter": `{"name":"l","ADDRESS":0,"filterChains":[{"filters":[{"name":"hcm","typedConfig":{"HCM":0,
		"routeConfig":{"name":"r"},"httpFilters":[{"name":"x","typedConfig":"EXTENSION"},"ROUTER"]}}]}]}`,
	"tracer": `{"name":"l","ADDRESS":0,"filterChains":[{"filters":[{"name":"hcm","typedConfig":{"HCM":0,
		"routeConfig":{"name":"r"},"tracing":{"provider":{"name":"x","typedConfig":"EXTENSION"}},"httpFilters":["ROUTER"]}}]}]}`,
	"request id": `{"name":"l","ADDRESS":0,"filterChains":[{"filters":[{"name":"hcm","typedConfig":{"HCM":0,
		"routeConfig":{"name":"r"},"requestIdExtension":{"typedConfig":"EXTENSION"},"httpFilters":["ROUTER"]}}]}]}`,
	"header formatter": `{"name":"l","ADDRESS":0,"filterChains":[{"filters":[{"name":"hcm","typedConfig":{"HCM":0,
		"routeConfig":{"name":"r"},"httpProtocolOptions":{"headerKeyFormat":{"statefulFormatter":{"name":"x","typedConfig":"EXTENSION"}}},
		"httpFilters":["ROUTER"]}}]}]}`,
	"route configuration": `{"name":"l","ADDRESS":0,"filterChains":[{"filters":[{"name":"hcm","typedConfig":{"HCM":0,
		"routeConfig":{"name":"r","virtualHosts":[{"name":"v","domains":["*"],"typedPerFilterConfig":{"x":"EXTENSION"}}]},"httpFilters":["ROUTER"]}}]}]}`,
	"path match": `{"name":"l","ADDRESS":0,"filterChains":[{"filters":[{"name":"hcm","typedConfig":{"HCM":0,
		"routeConfig":{"name":"r","virtualHosts":[{"name":"v","domains":["*"],"routes":[{"directResponse":{"status":200},
		"match":{"pathMatchPolicy":{"name":"x","typedConfig":"EXTENSION"}}}]}]},"httpFilters":["ROUTER"]}}]}]}`,
	"retry host predicate": `{"name":"l","ADDRESS":0,"filterChains":[{"filters":[{"name":"hcm","typedConfig":{"HCM":0,
		"routeConfig":{"name":"r","virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":"c",
		"retryPolicy":{"retryOn":"5xx","retryHostPredicate":[{"name":"x","typedConfig":"EXTENSION"}]}}}]}]},"httpFilters":["ROUTER"]}}]}]}`,
	"retry priority": `{"name":"l","ADDRESS":0,"filterChains":[{"filters":[{"name":"hcm","typedConfig":{"HCM":0,
		"routeConfig":{"name":"r","virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":"c",
		"retryPolicy":{"retryOn":"5xx","retryPriority":{"name":"x","typedConfig":"EXTENSION"}}}}]}]},"httpFilters":["ROUTER"]}}]}]}`,
	"private key provider": `{"name":"l","ADDRESS":0,"filterChains":[{"filters":["TCP"],"transportSocket":{"name":"tls","typedConfig":{
		"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext","commonTlsContext":{
		"tlsCertificates":[{"privateKeyProvider":{"providerName":"x","typedConfig":"EXTENSION"}}]}}}}]}`,
	"downstream transport socket": `{"name":"l","ADDRESS":0,"filterChains":[{"filters":["TCP"],"transportSocket":{"name":"x","typedConfig":"EXTENSION"}}]}`,
	"transport socket":            `{"name":"c","type":"STATIC","transportSocket":{"name":"x","typedConfig":"EXTENSION"}}`,
	"cluster":                     `{"name":"c","clusterType":{"name":"x","typedConfig":"EXTENSION"}}`,
	"cluster filter":              `{"name":"c","type":"STATIC","filters":[{"name":"x","typedConfig":"EXTENSION"}]}`,
	"load balancing policy": `{"name":"c","type":"STATIC","loadBalancingPolicy":{"policies":[{"typedExtensionConfig":{"name":"x",
		"typedConfig":"EXTENSION"}}]}}`,
	"session state": `{"name":"l","ADDRESS":0,"filterChains":[{"filters":[{"name":"hcm","typedConfig":{"HCM":0,
		"routeConfig":{"name":"r"},"httpFilters":[{"name":"x","typedConfig":{
		"@type":"type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
		"sessionState":{"name":"x","typedConfig":"EXTENSION"}}},"ROUTER"]}}]}]}`,
	"protocol options": `{"name":"c","type":"STATIC","typedExtensionProtocolOptions":{
		"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":"EXTENSION"}}`,
	"DNS resolver":     `{"name":"c","type":"STATIC","typedDnsResolverConfig":{"name":"x","typedConfig":"EXTENSION"}}`,
	"resource monitor": `{"overloadManager":{"resourceMonitors":[{"name":"x","typedConfig":"EXTENSION"}]}}`,
}

// samples are values for types that an empty message is no good for.
var samples = map[string]string{
	"envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality": `,"endpointPickingPolicy":{"policies":[{"typedExtensionConfig":
		{"name":"r","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"}}}]}`,
	"envoy.extensions.access_loggers.file.v3.FileAccessLog":              `,"path":"/dev/null"`,
	"envoy.config.trace.v3.ZipkinConfig":                                 `,"collectorEndpointVersion":"HTTP_JSON"`,
	"envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig": `,"pathTemplate":"/a/*"`,
	"envoy.extensions.filters.http.ext_authz.v3.ExtAuthz":                `,"httpService":{"serverUri":{"uri":"x","cluster":"c","timeout":"1s"}}`,
	"envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute":        `,"disabled":true`,
	"envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig":          `,"disabled":true`,
	"envoy.extensions.filters.http.ratelimit.v3.RateLimit":               `,"domain":"d","rateLimitService":{"grpcService":{"envoyGrpc":{"clusterName":"c"}}}`,
	"envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit":    `,"statPrefix":"x"`,
	"envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit": `,"statPrefix":"x","tokenBucket":{"maxTokens":1,"fillInterval":"1s"}`,
	"envoy.extensions.filters.network.ext_authz.v3.ExtAuthz":             `,"statPrefix":"x","grpcService":{"envoyGrpc":{"clusterName":"c"}}`,
	"envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport": `,"transportSocket":{"name":"raw","typedConfig":{
		"@type":"type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}`,
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy": `,"statPrefix":"x","cluster":"c"`,
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager": `,"statPrefix":"x","routeConfig":{"name":"r"},
		"httpFilters":[{"name":"r","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]`,
}

const stand = "type.googleapis.com/google.protobuf.Empty" // in place of types that are not linked in

// TestExtensionsAreWhatTheTableSays hands one extension of each listed type to the data plane.
func TestExtensionsAreWhatTheTableSays(t *testing.T) {
	for _, e := range registry.Entries() {
		kinds := []string{e.Kind}
		switch {
		case e.Kind == "network and http filter":
			kinds = []string{"network filter", "http filter"}
		case e.Kind == "network and cluster filter":
			kinds = []string{"network filter", "cluster filter"}
		case e.Kind == "transport socket" && strings.Contains(e.TypeURL, "Downstream"):
			kinds = []string{"downstream transport socket"}
		case e.TypeURL == registry.RawBuffer:
			kinds = append(kinds, "downstream transport socket")
		}
		for _, kind := range kinds {
			err := hand(t, kind, e.TypeURL)
			var refused *fields.UnsupportedError
			switch asked := errors.As(err, &refused) || err != nil && strings.Contains(err.Error(), e.TypeURL); {
			case e.Status == registry.Refused && !asked:
				t.Errorf("%s %s is said to be refused: %v", kind, e.TypeURL, err)
			case e.Status == registry.Ignored && err != nil:
				t.Errorf("%s %s is said to be ignored: %v", kind, e.TypeURL, err)
			case e.Status == registry.Supported && asked:
				t.Errorf("%s %s is said to be supported: %v", kind, e.TypeURL, err)
			}
		}
	}
}

// hand gives a new proxy an extension of a type and returns what it says.
func hand(t *testing.T, kind, typeURL string) error {
	t.Helper()
	text, ok := places[kind]
	if !ok {
		t.Fatalf("nothing is known of where a %s stands", kind)
	}
	name := strings.TrimPrefix(typeURL, "type.googleapis.com/")
	inner := `{"@type":"` + stand + `","value":{}}`
	if sample, ok := samples[name]; ok {
		inner = `{"@type":"` + typeURL + `"` + sample + `}`
	}
	const (
		router  = `{"name":"r","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}`
		manager = `"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","statPrefix":"x"`
		tcp     = `{"name":"tcp","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy","statPrefix":"x","cluster":"c"}}`
	)
	if typeURL == registry.Router {
		text = strings.ReplaceAll(text, `,"ROUTER"`, "") // there is room for one
	}
	text = strings.NewReplacer(
		`"EXTENSION"`, inner, `"ROUTER"`, router, `"HCM":0`, manager, `"TCP"`, tcp, `"CHAIN":0`, `"filterChains":[{"filters":[`+tcp+`]}]`,
		`"ADDRESS":0`, `"address":{"socketAddress":{"address":"127.0.0.1","portValue":0}}`,
	).Replace(text)
	b := &bootstrapv3.Bootstrap{}
	var m proto.Message
	switch {
	case kind == "resource monitor":
		m = b
	case strings.HasPrefix(text, `{"name":"l"`):
		m = &listenerv3.Listener{}
	default:
		m = &clusterv3.Cluster{}
	}
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%s: %v\n%s", kind, err, text)
	}
	retype(t, m.ProtoReflect(), typeURL)
	p, err := New(b, Options{}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		return err
	}
	defer p.Shutdown()
	switch m := m.(type) {
	case *listenerv3.Listener:
		return p.listeners.AddStatic(m)
	case *clusterv3.Cluster:
		return p.clusters.AddStatic(m)
	}
	return nil
}

// retype gives the stand-in its type, wherever in m it is.
func retype(t *testing.T, m protoreflect.Message, typeURL string) {
	t.Helper()
	if a, ok := m.Interface().(*anypb.Any); ok {
		if a.GetTypeUrl() == stand {
			a.TypeUrl = typeURL
			return
		}
		inner, err := a.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		retype(t, inner.ProtoReflect(), typeURL)
		if err := a.MarshalFrom(inner); err != nil {
			t.Fatal(err)
		}
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				retype(t, v.Message(), typeURL)
				return true
			})
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				retype(t, v.List().Get(i).Message(), typeURL)
			}
		case !f.IsMap() && f.Message() != nil:
			retype(t, v.Message(), typeURL)
		}
		return true
	})
}
