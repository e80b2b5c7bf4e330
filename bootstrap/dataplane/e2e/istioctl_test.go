package e2e

import (
	"bytes"
	"strings"
	"testing"

	"istio.io/istio/istioctl/pkg/writer/envoy/clusters"
	"istio.io/istio/istioctl/pkg/writer/envoy/configdump"
)

// TestIstioctl asks for what each istioctl proxy-config command asks for, and reads it with istioctl's own code.
func TestIstioctl(t *testing.T) {
	_, client, _, _ := pair(t, "")
	eventually(t, client, "a request", answers(client, request("/"), 200, ""))
	type writer = configdump.ConfigWriter
	full := func(w *writer) error {
		return w.PrintFullSummary(configdump.ClusterFilter{}, configdump.ListenerFilter{}, configdump.RouteFilter{},
			configdump.EndpointFilter{}, true)
	}
	for _, tc := range []struct {
		command, path string
		print         func(*writer) error
		want          []string
	}{
		{
			"clusters", "?mask=dynamic_active_clusters,dynamic_warming_clusters,static_clusters",
			func(w *writer) error { return w.PrintClusterSummary(configdump.ClusterFilter{}) },
			[]string{"server.ns.svc.cluster.local", "BlackHoleCluster", "ORIGINAL_DST", "xds-grpc"},
		},
		{
			"clusters -o json", "?mask=dynamic_active_clusters,dynamic_warming_clusters,static_clusters",
			func(w *writer) error {
				return w.PrintClusterDump(configdump.ClusterFilter{FQDN: "server.ns.svc.cluster.local"}, "json")
			},
			[]string{`"name": "outbound|8000||server.ns.svc.cluster.local"`},
		},
		{
			"listeners", "?mask=dynamic_listeners,static_listeners",
			func(w *writer) error { return w.PrintListenerSummary(configdump.ListenerFilter{Verbose: true}) },
			[]string{"15001", "15006", "15021", "15090", "Route: 8000"},
		},
		{
			"routes", "?mask=dynamic_route_configs,static_route_configs",
			func(w *writer) error { return w.PrintRouteSummary(configdump.RouteFilter{Verbose: true}) },
			[]string{"8000", "server.ns.svc.cluster.local:8000", "InboundPassthroughCluster"},
		},
		{
			"bootstrap", "?mask=bootstrap", func(w *writer) error { return w.PrintBootstrapDump("yaml") },
			[]string{"sidecar~10.9.0.1~", "userAgentBuildVersion"},
		},
		{"bootstrap --summary", "?mask=bootstrap", (*writer).PrintBootstrapSummary, []string{"1.38.0-ropes/RELEASE/go"}},
		{
			"secret", "?mask=dynamic_active_secrets,dynamic_warming_secrets", (*writer).PrintSecretSummary,
			[]string{"default", "ROOTCA", "ACTIVE", "true"},
		},
		{
			"endpoints from a dump", "?include_eds=true",
			func(w *writer) error { return w.PrintEndpointsSummary(configdump.EndpointFilter{}) },
			[]string{"10.9.0.2:8080", "HEALTHY", "outbound|8000||server.ns.svc.cluster.local"},
		},
		{"all", "?include_eds=true", full, []string{"LISTENER INFO", "ROUTE INFO", "SECRET INFO", "ENDPOINTS INFO"}},
	} {
		t.Run(tc.command, func(t *testing.T) {
			dump, err := client.admin("config_dump" + tc.path)
			must(t, err)
			var out bytes.Buffer
			w := &writer{Stdout: &out}
			if err := w.Prime([]byte(dump)); err != nil {
				t.Fatalf("%v in %.300s", err, dump)
			}
			must(t, tc.print(w))
			for _, want := range tc.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in\n%.3000s", want, out.String())
				}
			}
		})
	}
	t.Run("endpoints", func(t *testing.T) {
		status, err := client.admin("clusters?format=json")
		must(t, err)
		var out bytes.Buffer
		w := clusters.ConfigWriter{Stdout: &out}
		must(t, w.Prime([]byte(status)))
		must(t, w.PrintEndpointsSummary(clusters.EndpointFilter{}))
		if !strings.Contains(out.String(), "10.9.0.2:8080") {
			t.Errorf("no endpoint of the server in\n%s", &out)
		}
	})
	t.Run("log", func(t *testing.T) {
		for _, tc := range []struct{ query, http, rbac string }{
			{"", "debug", "debug"},
			{"?level=info", "info", "info"},
			{"", "info", "info"},
			{"?rbac=warning", "info", "warning"},
			{"?paths=http:trace,rbac:error", "trace", "error"},
		} {
			o, err := client.order(order{Kind: "http", Method: "POST", URL: "http://127.0.0.1:15000/logging" + tc.query})
			must(t, err)
			if o.Status != 200 || !strings.Contains(o.Body, "\n  http: "+tc.http+"\n") || !strings.Contains(o.Body, "\n  rbac: "+tc.rbac+"\n") {
				t.Errorf("/logging%s gave %+v", tc.query, o)
			}
		}
	})
}
