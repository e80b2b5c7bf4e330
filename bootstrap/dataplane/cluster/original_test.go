package cluster

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
)

func compiled(t *testing.T, js string) (*Cluster, error) {
	t.Helper()
	p := &clusterv3.Cluster{}
	must(t, protojson.Unmarshal([]byte(js), p))
	return compile(p, tlsctx.NewStore(), stats.New())
}

func TestOriginalDestination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := compiled(t, `{"name":"o","type":"ORIGINAL_DST","lbPolicy":"CLUSTER_PROVIDED","cleanupInterval":"1s",
			"originalDstLbConfig":{"useHttpHeader":true,"httpHeaderName":"x-to","upstreamPortOverride":8081}}`)
		must(t, err)
		if c.OriginalHeader() != "x-to" {
			t.Errorf("header %q", c.OriginalHeader())
		}
		pick := func(dst string) *Endpoint {
			t.Helper()
			e, err := c.Pick(Choice{Original: netip.MustParseAddrPort(dst)})
			must(t, err)
			return e
		}
		first := pick("192.0.2.1:80")
		if first.Address != "192.0.2.1:8081" {
			t.Errorf("with another port: %s", first.Address)
		}
		if pick("192.0.2.1:90") != first {
			t.Error("the same host was made twice")
		}
		time.Sleep(2 * time.Minute)
		pick("192.0.2.2:80")
		if n := len(c.Endpoints()); n != 1 {
			t.Errorf("%d destinations are remembered", n)
		}
		c, err = compiled(t, `{"name":"o","type":"ORIGINAL_DST","lbPolicy":"CLUSTER_PROVIDED","originalDstLbConfig":{"useHttpHeader":true}}`)
		must(t, err)
		if c.OriginalHeader() != "x-envoy-original-dst-host" {
			t.Errorf("header %q", c.OriginalHeader())
		}
	})
}

// TestConnectionSettings: what istiod sends for connection pools, and that what is not honoured is named.
func TestConnectionSettings(t *testing.T) {
	const options = `"typedExtensionProtocolOptions":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{
		"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",`
	c, err := compiled(t, `{"name":"c","type":"STATIC","connectTimeout":"2s","upstreamConnectionOptions":{"tcpKeepalive":{"keepaliveTime":7,
		"keepaliveProbes":3}},`+options+`"commonHttpProtocolOptions":{"idleTimeout":"9s","maxRequestsPerConnection":4,"maxConnectionDuration":"60s"},
		"explicitHttpConfig":{"http2ProtocolOptions":{"maxConcurrentStreams":5,"connectionKeepalive":{"interval":"30s","timeout":"3s"}}}}}}`)
	must(t, err)
	want := keepalive{on: true, idle: 7 * time.Second, interval: -1, probes: 3}
	if c.keepalive != want || c.connectTimeout != 2*time.Second || c.idleTimeout != 9*time.Second || c.maxPerConn != 4 ||
		c.maxAge != time.Minute || c.streams != 5 || c.ping != 30*time.Second || c.pingWait != 3*time.Second || c.Protocol != HTTP2 {
		t.Errorf("%+v", c)
	}
	for js, want := range map[string]string{
		`{"name":"c","type":"STATIC","closeConnectionsOnHostHealthFailure":true}`:                                                                       "Cluster.close_connections_on_host_health_failure",
		`{"name":"c","type":"STATIC","commonLbConfig":{"closeConnectionsOnHostSetChange":true}}`:                                                        "CommonLbConfig.close_connections_on_host_set_change",
		`{"name":"c","type":"STATIC","outlierDetection":{"detectDegradedHosts":true}}`:                                                                  "OutlierDetection.detect_degraded_hosts",
		`{"name":"c","type":"STATIC","circuitBreakers":{"thresholds":[{"maxConnectionPools":3}]}}`:                                                      "Thresholds.max_connection_pools",
		`{"name":"c","type":"STATIC","loadAssignment":{"clusterName":"c","policy":{"weightedPriorityHealth":true}}}`:                                    "Policy.weighted_priority_health",
		`{"name":"c","type":"STATIC","lbPolicy":"MAGLEV","maglevLbConfig":{"tableSize":"100"}}`:                                                         "table_size 100 is not a prime",
		`{"name":"c","clusterType":{"name":"envoy.clusters.aggregate","typedConfig":{"@type":"type.googleapis.com/google.protobuf.Empty","value":{}}}}`: `cluster "envoy.clusters.aggregate"`,
		`{"name":"c","type":"STATIC",` + options + `"explicitHttpConfig":{"http2ProtocolOptions":{"allowConnect":true}}}}}`:                             "Http2ProtocolOptions.allow_connect",
	} {
		if _, err := compiled(t, js); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", js, err, want)
		}
	}
}
