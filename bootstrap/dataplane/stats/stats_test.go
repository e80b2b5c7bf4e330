package stats

import (
	"regexp"
	"strings"
	"testing"
)

func TestRendering(t *testing.T) {
	r := New()
	sc := Scope{Name: "cluster.outbound|80||a", Family: "envoy_cluster", Labels: Label("cluster_name", `outbound|80||"a"`)}
	r.Counter(sc, "upstream_rq_total").Add(3)
	r.Counter(sc, "upstream_rq_retry")
	r.Gauge(Scope{Name: "server", Family: "envoy_server"}, "state").Set(0)
	h := r.Histogram(sc, "upstream_rq_time")
	for _, v := range []float64{0.4, 7, 7, 4000000} {
		h.Observe(v)
	}
	r.Vec("istio_requests_total").With(Label("reporter", "source")).Inc()
	var text, prom strings.Builder
	if err := r.WriteText(&text, Filter{UsedOnly: true, Match: regexp.MustCompile(`^(server\.state|cluster\.)`)}, Summary); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"server.state: 0\n", "cluster.outbound|80||a.upstream_rq_total: 3\n", "upstream_rq_time: P0(nan,"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("text lacks %q:\n%s", want, text.String())
		}
	}
	if strings.Contains(text.String(), "upstream_rq_retry") {
		t.Error("an unused counter is shown")
	}
	if err := r.WritePrometheus(&prom, Filter{UsedOnly: true}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# TYPE envoy_cluster_upstream_rq_total counter\n", `envoy_cluster_upstream_rq_total{cluster_name="outbound|80||\"a\""} 3`,
		"istio_requests_total{reporter=\"source\"} 1\n", `le="0.5"} 1`, `le="10"} 3`, `le="+Inf"} 4`,
		`envoy_cluster_upstream_rq_time_count{cluster_name="outbound|80||\"a\""} 4`,
	} {
		if !strings.Contains(prom.String(), want) {
			t.Errorf("prometheus lacks %q:\n%s", want, prom.String())
		}
	}
	r.Drop("cluster.outbound|80||a.")
	if n := len(r.Values(Filter{})); n != 2 {
		t.Errorf("%d values after the cluster is dropped, want 2", n)
	}
}
