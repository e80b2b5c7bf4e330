package netfilter

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	statsv1 "istio.io/api/envoy/extensions/stats"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/hcm"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/metrics"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
)

// TestTCPMetricsWhileTheConnectionLasts watches the counters of a connection that goes on.
func TestTCPMetricsWhileTheConnectionLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, self := stats.New(), &peer.Info{Workload: "me"}
		cfg, err := metrics.Compile(&statsv1.PluginConfig{TcpReportingDuration: durationpb.New(time.Second)}, self, reg)
		if err != nil {
			t.Fatal(err)
		}
		f := &Stats{Env: &hcm.Env{Stats: reg, Self: self}, Config: cfg}
		a, b := net.Pipe()
		defer func() { _ = b.Close() }()
		c := network.New(a)
		c.Direction = network.Inbound
		if err := f.OnConnection(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		lines := func() map[string]string {
			var out strings.Builder
			if err := reg.WritePrometheus(&out, stats.Filter{}); err != nil {
				t.Fatal(err)
			}
			m := map[string]string{}
			for line := range strings.SplitSeq(out.String(), "\n") {
				if name, rest, ok := strings.Cut(line, "{"); ok {
					m[name] = rest[strings.LastIndexByte(rest, ' ')+1:]
				}
			}
			return m
		}
		c.Received.Add(10)
		time.Sleep(1500 * time.Millisecond)
		if got := lines(); got["istio_tcp_connections_opened_total"] != "" {
			t.Errorf("reported before the peer is known: %v", got)
		}
		c.SetPeer(&peer.Info{Workload: "other"})
		c.Sent.Add(7)
		time.Sleep(time.Second)
		if got := lines(); got["istio_tcp_connections_opened_total"] != "1" || got["istio_tcp_received_bytes_total"] != "10" ||
			got["istio_tcp_sent_bytes_total"] != "7" || got["istio_tcp_connections_closed_total"] != "" {
			t.Errorf("while it lasts: %v", got)
		}
		c.Sent.Add(1)
		c.Finish()
		if got := lines(); got["istio_tcp_sent_bytes_total"] != "8" || got["istio_tcp_connections_closed_total"] != "1" {
			t.Errorf("in the end: %v", got)
		}
	})
}
