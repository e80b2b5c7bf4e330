package accesslog

import (
	"net/http"
	"net/netip"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

func sample(t *testing.T) *Entry {
	t.Helper()
	meta, err := structpb.NewStruct(map[string]any{"CLUSTER_ID": "Kubernetes"})
	if err != nil {
		t.Fatal(err)
	}
	return &Entry{
		Protocol: "HTTP/1.1", Method: "GET", Authority: "a.example", Path: "/p/q?x=1", Scheme: "http",
		Request: http.Header{"X-A": {"1", "2"}, "User-Agent": {"curl"}}, ResponseCode: 503, RouteName: "default",
		Upstream:   Upstream{Cluster: "outbound|80||b", Host: netip.MustParseAddrPort("10.0.0.1:80")},
		Downstream: Downstream{LocalAddress: netip.MustParseAddrPort("10.0.0.9:8080")}, Direction: 2,
		Node: &corev3.Node{Id: "me", Metadata: meta},
		FilterState: func(key string) (any, bool) {
			return map[string]any{"workload": "w", "labels": map[string]any{"role": "r"}}, key == "downstream_peer"
		},
		Metadata: func(src MetadataSource, filter string, path []string) (any, bool) {
			if src == Cluster && filter == "istio" && len(path) == 0 {
				return map[string]any{"external": true}, true
			}
			return nil, false
		},
	}
}

func TestExpressions(t *testing.T) {
	e := sample(t)
	for expression, want := range map[string]string{
		`request.host`: "a.example", `request.url_path`: "/p/q", `request.path`: "/p/q?x=1", `request.query`: "x=1",
		`request.headers['x-a']`: "1,2", `request.headers[':method']`: "GET", `string(destination.port)`: "8080",
		`destination.port`: "8080", `response.code`: "503", `response.code >= 500 ? '5xx' : 'other'`: "5xx",
		`request.url_path.startsWith('/p') ? 'p' : ''`: "p", `node.metadata['CLUSTER_ID']`: "Kubernetes", `node.id`: "me",
		`xds.cluster_name`: "outbound|80||b", `xds.route_name`: "default", `xds.listener_direction`: "2",
		`xds.cluster_metadata.filter_metadata['istio'].external`: "true", `upstream.address`: "10.0.0.1:80",
		`filter_state.downstream_peer.labels['role']`: "r", `downstream_peer.workload`: "w",
		`has(request.headers['x-b'])`: "", `'x-b' in request.headers`: "false", `has(request.referer)`: "false",
		`has(filter_state.upstream_peer)`: "false", `request.referer`: "", `connection.mtls`: "false", `source.address`: "",
	} {
		x, err := CompileExpression(expression)
		if err != nil {
			if want != "" {
				t.Errorf("%s: %v", expression, err)
			}
			continue
		}
		got, ok := x.Text(e)
		if got != want || ok != (want != "") {
			t.Errorf("%s gave %q %v, want %q", expression, got, ok, want)
		}
	}
	for _, bad := range []string{"", "nobody.knows", "1 +"} {
		if _, err := CompileExpression(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestExpressionOperators(t *testing.T) {
	e := sample(t)
	for format, want := range map[string]string{
		"%CEL(request.headers['x-a'])%|%CEL(string(response.code))%": "1,2|503",
		"%CEL(request.path.contains(')%') ? 1 : 2)%":                 "2",
		"%CEL(request.host):3%":                                      "a.e",
		"%CEL(request.headers['none'])%":                             "-",
	} {
		f, err := CompileText(format)
		if err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		if got := string(f.Format(e)); got != want {
			t.Errorf("%s gave %q, want %q", format, got, want)
		}
	}
	js, err := structpb.NewStruct(map[string]any{"code": "%TYPED_CEL(response.code)%", "text": "%CEL(response.code)%"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(&corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: js}})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(f.Format(e)); got != `{"code":503,"text":"503"}`+"\n" {
		t.Errorf("JSON %s", got)
	}
	for _, bad := range []string{"%CEL()%", "%CEL(nobody.knows)%", "%CEL(1"} {
		if _, err := CompileText(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
