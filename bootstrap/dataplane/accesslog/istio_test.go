package accesslog_test

import (
	"bytes"
	"encoding/json"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	fileaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/model"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
)

// istiodFormat is the format istiod sends for a mesh configuration.
func istiodFormat(t testing.TB, mesh *meshconfig.MeshConfig) *corev3.SubstitutionFormatString {
	t.Helper()
	var f fileaccesslogv3.FileAccessLog
	if err := model.FileAccessLogFromMeshConfig("/dev/stdout", mesh).GetTypedConfig().UnmarshalTo(&f); err != nil {
		t.Fatal(err)
	}
	return f.GetLogFormat()
}

func TestIstioDefaultText(t *testing.T) {
	f, err := accesslog.Compile(istiodFormat(t, &meshconfig.MeshConfig{}))
	if err != nil {
		t.Fatalf("what istiod sends is refused: %v", err)
	}
	want := `[2026-03-09T08:07:06.054Z] "GET /reviews/0?a=1&b=%20x#f HTTP/1.1" 200 - via_upstream - "-" 3 295 14 9 "-" "curl/8" "7f3c" ` +
		`"reviews:9080" "10.244.2.9:9080" outbound|9080||reviews.bookinfo.svc.cluster.local 10.244.1.5:50001 10.96.0.7:9080 ` +
		`10.244.1.5:40112 - default` + "\n"
	if got := string(f.Format(request())); got != want {
		t.Errorf("HTTP: got\n%swant\n%s", got, want)
	}
	want = `[2026-03-09T08:07:06.054Z] "- - -" 0 UF,URX - rbac denied "TLS_error:_bad_cert" 0 0 1000 - "-" "-" "-" "-" "-" c - - - ` +
		`invalid:outbound_.9000_._.tcp.example -` + "\n"
	if got := string(f.Format(connection())); got != want {
		t.Errorf("TCP: got\n%swant\n%s", got, want)
	}
}

func TestIstioDefaultJSON(t *testing.T) {
	f, err := accesslog.Compile(istiodFormat(t, &meshconfig.MeshConfig{AccessLogEncoding: meshconfig.MeshConfig_JSON}))
	if err != nil {
		t.Fatalf("what istiod sends is refused: %v", err)
	}
	var got map[string]any
	if err := json.Unmarshal(f.Format(request()), &got); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]any{
		"response_code": 200.0, "duration": 14.0, "bytes_sent": 295.0, "method": "GET", "upstream_service_time": "9",
		"x_forwarded_for": nil, "response_flags": "-", "upstream_host": "10.244.2.9:9080", "route_name": "default",
	} {
		if v, ok := got[k]; !ok || v != want {
			t.Errorf("%s: got %v, want %v", k, v, want)
		}
	}
	if len(got) != len(model.EnvoyJSONLogFormatIstio.Fields) {
		t.Errorf("got %d keys, want %d", len(got), len(model.EnvoyJSONLogFormatIstio.Fields))
	}
}

func TestEnvoyDefault(t *testing.T) {
	f, err := accesslog.CompileText(accesslog.DefaultText)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Format(request()); !bytes.HasSuffix(got, []byte("\"10.244.2.9:9080\"\n")) {
		t.Errorf("got %q", got)
	}
}

func BenchmarkIstioText(b *testing.B) { benchmark(b, &meshconfig.MeshConfig{}) }

func BenchmarkIstioJSON(b *testing.B) {
	benchmark(b, &meshconfig.MeshConfig{AccessLogEncoding: meshconfig.MeshConfig_JSON})
}

func benchmark(b *testing.B, mesh *meshconfig.MeshConfig) {
	f, err := accesslog.Compile(istiodFormat(b, mesh))
	if err != nil {
		b.Fatal(err)
	}
	e := request()
	line := f.Format(e)
	b.ReportAllocs()
	for b.Loop() {
		line = f.Append(line[:0], e)
	}
}
