package e2e

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

func tracingYAML(provider string, sampling int) string {
	return fmt.Sprintf(`
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: tracing, namespace: ns}
spec:
  tracing:
  - providers: [{name: %s}]
    randomSamplingPercentage: %d
    customTags:
      lit: {literal: {value: v}}
      who: {header: {name: x-user, defaultValue: nobody}}
      env: {environment: {name: NOT_SET, defaultValue: d}}
      form: {formatter: {value: "%%REQ(:METHOD)%%"}}
`, provider, sampling)
}

func TestTracing(t *testing.T) {
	w, client, server, c := observed(t)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, by := range []string{"grpc", "http"} {
		provider := map[string]string{"grpc": "otel", "http": "otelhttp"}[by]
		t.Run("OTLP by "+by, func(t *testing.T) {
			w.apply(tracingYAML(provider, 100))
			r := request("/a/path")
			r.Header["traceparent"], r.Header["x-user"] = parent, "me"
			var cl, sv collected
			eventually(t, client, "spans of both proxies", func() error {
				o, err := client.order(r)
				if err != nil {
					return err
				}
				at := o.echo(t).Headers.Get("Traceparent")
				cl, sv = collected{}, collected{}
				c.mu.Lock()
				defer c.mu.Unlock()
				for _, s := range c.spans {
					if s.by != by {
						continue
					}
					if s.GetKind() == tracepb.Span_SPAN_KIND_CLIENT {
						cl = s
					}
				}
				for _, s := range c.spans {
					if s.by == by && cl.Span != nil && string(s.GetParentSpanId()) == string(cl.GetSpanId()) {
						sv = s
					}
				}
				if cl.Span == nil || sv.Span == nil || !strings.HasPrefix(at, "00-0af7651916cd43dd8448eb211c80319c-") {
					return fmt.Errorf("%d spans, the application saw %q", len(c.spans), at)
				}
				return nil
			})
			if hex.EncodeToString(cl.GetTraceId()) != parent[3:35] || hex.EncodeToString(cl.GetParentSpanId()) != parent[36:52] ||
				string(sv.GetTraceId()) != string(cl.GetTraceId()) || sv.GetKind() != tracepb.Span_SPAN_KIND_SERVER {
				t.Errorf("parentage of %v and %v", cl, sv)
			}
			for _, s := range []collected{cl, sv} {
				if s.GetName() != "server.ns.svc.cluster.local:8000/*" {
					t.Errorf("name %q", s.GetName())
				}
				for k, want := range map[string]string{
					"lit": "v", "who": "me", "env": "d", "form": "GET", "http.method": "GET", "http.status_code": "200", "component": "proxy",
					"response_flags": "-", "istio.namespace": "ns", "istio.mesh_id": "cluster.local", "istio.canonical_revision": "latest",
				} {
					if got := value(s.GetAttributes(), k); got != want {
						t.Errorf("%s: %s is %q, want %q", s.service, k, got, want)
					}
				}
			}
			if u := value(cl.GetAttributes(), "upstream_cluster"); u != "outbound|8000||server.ns.svc.cluster.local" {
				t.Errorf("upstream_cluster %q", u)
			}
			if cl.service == sv.service {
				t.Errorf("services %q and %q", cl.service, sv.service)
			}
		})
	}
	t.Run("Zipkin", func(t *testing.T) {
		w.apply(tracingYAML("zipkin", 100))
		eventually(t, client, "spans of both proxies", func() error {
			o, err := client.order(request("/z"))
			if err != nil {
				return err
			}
			h := o.echo(t).Headers
			if h.Get("X-B3-Sampled") != "1" || h.Get("X-B3-Parentspanid") == "" {
				return fmt.Errorf("headers %v", h)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, s := range c.zipkin {
				for _, p := range c.zipkin {
					if s["kind"] == "SERVER" && p["kind"] == "CLIENT" && s["parentId"] == p["id"] && s["traceId"] == p["traceId"] &&
						len(fmt.Sprint(s["traceId"])) == 32 && s["name"] == "server.ns.svc.cluster.local:8000/*" {
						return nil
					}
				}
			}
			return fmt.Errorf("%d spans", len(c.zipkin))
		})
	})
	t.Run("nothing is sampled", func(t *testing.T) {
		w.apply(tracingYAML("zipkin", 0))
		eventually(t, client, "the context says so", func() error {
			o, err := client.order(request("/n"))
			if err != nil {
				return err
			}
			if h := o.echo(t).Headers; h.Get("X-B3-Sampled") != "0" {
				return fmt.Errorf("headers %v", h)
			}
			return nil
		})
	})
	noNacks(t, client, server)
	t.Run("another tracer", func(t *testing.T) {
		w.apply(tracingYAML("datadog", 100))
		eventually(t, client, "is refused by name", func() error {
			s, err := client.admin("stats?filter=update_rejected&usedonly")
			if err == nil && s == "" {
				err = fmt.Errorf("nothing was refused")
			}
			return err
		})
	})
}
