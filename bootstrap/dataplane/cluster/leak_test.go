package cluster

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// TestNothingLeaks: after thousands of updates under load no goroutine and no connection is left of what has gone, and
// no request has failed.
func TestNothingLeaks(t *testing.T) {
	var open atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	srv.Start()
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	m := newManager(t)
	base := runtime.NumGoroutine()
	version := func(i int) *clusterv3.Cluster {
		p := edsCluster("c", []clusterv3.Cluster_LbPolicy{clusterv3.Cluster_ROUND_ROBIN, clusterv3.Cluster_MAGLEV, clusterv3.Cluster_LEAST_REQUEST}[i%3])
		p.ConnectTimeout = durationpb.New(time.Second + time.Duration(i))
		if p.GetLbPolicy() == clusterv3.Cluster_MAGLEV {
			p.LbConfig = &clusterv3.Cluster_MaglevLbConfig_{MaglevLbConfig: &clusterv3.Cluster_MaglevLbConfig{TableSize: wrapperspb.UInt64(251)}}
		}
		p.OutlierDetection = &clusterv3.OutlierDetection{}
		must(t, protojson.Unmarshal([]byte(`{"interval":"0.001s"}`), p.OutlierDetection))
		return p
	}
	one, two := locality(0, lbEndpoint(addr, 1, 0)), locality(0, lbEndpoint(addr, 1, 0), lbEndpoint("127.0.0.2:1", 1, 2))
	serving(t, m, version(0), one)
	stop, done := make(chan struct{}), make(chan error, 2)
	for range 2 {
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				c := m.Get("c")
				e, err := c.Pick(Choice{})
				if err == nil {
					err = fetch(c, e, ConnectOptions{})
				}
				if err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for i := range 2000 {
		if i%10 == 0 {
			must(t, m.Apply(update(t, xds.ClusterType, nil, version(i))))
			must(t, m.Apply(xds.Update{Type: xds.ClusterType, Resources: update(t, xds.ClusterType, nil, dnsNumbered(i%50)).Resources}))
		}
		l := one
		if i%2 == 0 {
			l = two
		}
		must(t, m.ApplyEndpoints(update(t, xds.EndpointType, nil, assignment("c", l))))
	}
	close(stop)
	for range 2 {
		if err := <-done; err != nil {
			t.Errorf("a request failed: %v", err)
		}
	}
	must(t, m.Apply(xds.Update{Type: xds.ClusterType, Full: true}))
	if len(m.All()) != 0 {
		t.Errorf("left: %d clusters", len(m.All()))
	}
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > base || open.Load() > 0; {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d at the start; %d connections\n%s", runtime.NumGoroutine(), base, open.Load(), buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(time.Millisecond)
	}
}

func dnsNumbered(i int) *clusterv3.Cluster {
	p := dnsCluster(clusterv3.Cluster_STRICT_DNS)
	p.Name = fmt.Sprint("dns", i)
	p.ConnectTimeout = durationpb.New(time.Second + time.Duration(i))
	return p
}
