package admin

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/hcm"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/listener"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
)

func served(t *testing.T) (*Server, *stats.Registry) {
	t.Helper()
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal([]byte(`{"layeredRuntime":{"layers":[{"name":"global config","staticLayer":{"a.b":true,"n":3}},
		{"name":"admin","adminLayer":{}}]}}`), b); err != nil {
		t.Fatal(err)
	}
	reg := stats.New()
	cm := cluster.NewManager(t.Context(), tlsctx.NewStore(), reg, cluster.System{})
	t.Cleanup(cm.Close)
	lm := listener.NewManager(t.Context(), listener.Config{Stats: reg, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(lm.Close)
	return New(Config{
		Listeners: lm, Routes: hcm.NewRouteStore(),
		Bootstrap: b, Stats: reg, Clusters: cm, Secrets: tlsctx.NewStore(), Log: slog.New(slog.DiscardHandler), Version: "v",
		State: func() int32 { return 0 }, Fail: func(bool) {}, Quit: func() {}, DrainTime: time.Second,
	}), reg
}

func TestStatsPages(t *testing.T) {
	s, reg := served(t)
	sc := stats.Scope{Name: "cluster.a", Family: "envoy_cluster", Labels: stats.Label("cluster_name", "a")}
	reg.Counter(sc, "upstream_rq_total").Add(2)
	reg.Counter(sc, "never")
	reg.Gauge(sc, "upstream_cx_active").Set(1)
	reg.Histogram(sc, "upstream_rq_time").Observe(3)
	reg.Text(sc, "version_text").Set("v1")
	reg.Vec("istio_requests_total").With(stats.Label("reporter", "source") + "," + stats.Label("source_app", `a"b`)).Add(5)
	for _, tc := range []struct {
		path      string
		has, hasn []string
	}{
		{"/stats", []string{
			"cluster.a.upstream_rq_total: 2\n", "cluster.a.never: 0\n", `cluster.a.version_text: "v1"`, "upstream_rq_time: P0(nan,",
			`istiocustom.istio_requests_total.reporter.source.source_app.a"b: 5`, "server.uptime: ",
		}, nil},
		{"/stats?usedonly", []string{"upstream_rq_total: 2"}, []string{"never"}},
		{"/stats?filter=upstream_rq", []string{"upstream_rq_total: 2"}, []string{"upstream_cx", "server."}},
		{"/stats?type=Counters", []string{"upstream_rq_total: 2"}, []string{"upstream_cx_active", "version_text", "rq_time"}},
		{"/stats?type=Gauges", []string{"upstream_cx_active: 1"}, []string{"upstream_rq_total", "rq_time"}},
		{"/stats?type=Histograms", []string{"rq_time"}, []string{"upstream_rq_total", "upstream_cx_active"}},
		{"/stats?type=TextReadouts", []string{`version_text: "v1"`}, []string{"upstream_rq_total"}},
		{"/stats?type=Histograms&histogram_buckets=cumulative", []string{"upstream_rq_time: B0.5(0,0) B1(0,0) B5(0,1) B10(0,1)"}, nil},
		{"/stats?type=Histograms&histogram_buckets=disjoint", []string{"B5(0,1) B10(0,0)"}, nil},
		{"/stats?format=json", []string{`{"name":"cluster.a.upstream_rq_total","value":2}`, `"supported_quantiles":[0,25,`, `"name":"cluster.a.upstream_rq_time"`}, nil},
		{"/stats?format=prometheus", []string{`envoy_cluster_upstream_rq_total{cluster_name="a"} 2`}, nil},
		{"/stats/prometheus", []string{`istio_requests_total{reporter="source",source_app="a\"b"} 5`, `upstream_rq_time_bucket{cluster_name="a",le="5"} 1`}, []string{"text_value"}},
		{"/stats/prometheus?text_readouts", []string{`envoy_cluster_a_version_text{text_value="v1"} 0`}, nil},
		{"/stats/prometheus?filter=istio_requests", []string{"istio_requests_total"}, []string{"envoy_cluster"}},
	} {
		code, body := ask(s, http.MethodGet, tc.path)
		if code != http.StatusOK {
			t.Errorf("%s: %d %s", tc.path, code, body)
		}
		for _, want := range tc.has {
			if !strings.Contains(body, want) {
				t.Errorf("%s lacks %q:\n%s", tc.path, want, body)
			}
		}
		for _, not := range tc.hasn {
			if strings.Contains(body, not) {
				t.Errorf("%s has %q:\n%s", tc.path, not, body)
			}
		}
	}
	for _, bad := range []string{"/stats?type=x", "/stats?filter=(", "/stats?format=x", "/stats?histogram_buckets=x", "/stats/prometheus?filter=("} {
		if code, _ := ask(s, http.MethodGet, bad); code != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, code)
		}
	}
	if code, _ := ask(s, http.MethodGet, "/reset_counters"); code != http.StatusMethodNotAllowed {
		t.Errorf("GET /reset_counters: %d", code)
	}
	if code, _ := ask(s, http.MethodPost, "/reset_counters"); code != http.StatusOK {
		t.Errorf("POST /reset_counters: %d", code)
	}
	if _, body := ask(s, http.MethodGet, "/stats"); !strings.Contains(body, "upstream_rq_total: 0\n") || !strings.Contains(body, "upstream_cx_active: 1\n") ||
		!strings.Contains(body, "upstream_rq_time: No recorded values") {
		t.Errorf("after the reset:\n%s", body)
	}
}

func TestPages(t *testing.T) {
	s, _ := served(t)
	var rt struct {
		Layers  []string
		Entries map[string]struct {
			Final  string   `json:"final_value"`
			Layers []string `json:"layer_values"`
		}
	}
	_, body := ask(s, http.MethodGet, "/runtime")
	if err := json.Unmarshal([]byte(body), &rt); err != nil || len(rt.Layers) != 2 || rt.Entries["a.b"].Final != "true" || rt.Entries["n"].Layers[0] != "3" {
		t.Errorf("%v %s", err, body)
	}
	_, help := ask(s, http.MethodGet, "/help")
	_, home := ask(s, http.MethodGet, "/")
	for _, p := range s.pages() {
		if !strings.Contains(help, "  "+p.path) || !strings.Contains(home, p.path[1:]) {
			t.Errorf("%s is not on the help and home pages", p.path)
		}
		if code, _ := ask(s, http.MethodGet, p.path); p.post && code != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %d", p.path, code)
		}
	}
	if code, _ := ask(s, http.MethodGet, "/nothing"); code != http.StatusNotFound {
		t.Errorf("/nothing: %d", code)
	}
}
