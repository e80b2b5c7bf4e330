package cluster

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

func TestDynamicHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{}
		z.set(10*time.Second, nil, "10.0.0.1")
		m := NewManager(t.Context(), tlsctx.NewStore(), stats.New(), z)
		defer m.Close()
		p := &clusterv3.Cluster{}
		// As istiod sends it for ALLOW_ANY_DYNAMIC_DNS.
		must(t, protojson.Unmarshal([]byte(`{"name":"any","lbPolicy":"CLUSTER_PROVIDED","clusterType":{"name":"envoy.clusters.dynamic_forward_proxy",
			"typedConfig":{"@type":"type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
			"allowInsecureClusterOptions":true,"dnsCacheConfig":{"name":"cache","maxHosts":3,"dnsLookupFamily":"V4_ONLY"}}}}`), p))
		must(t, m.Apply(update(t, xds.ClusterType, nil, p)))
		c := m.Get("any")
		if _, err := c.Pick(Choice{}); !errors.Is(err, ErrNoEndpoint) {
			t.Errorf("without a name: %v", err)
		}
		reach := func(authority, want string) {
			t.Helper()
			key, err := c.Resolve(t.Context(), authority)
			must(t, err)
			e, err := c.Pick(Choice{Host: key})
			must(t, err)
			if got := (*e.addrs.Load())[0]; got != want {
				t.Errorf("%s is %s, want %s", authority, got, want)
			}
		}
		reach("a.example", "10.0.0.1:80")
		reach("A.example:80", "10.0.0.1:80")
		if z.asked != 1 {
			t.Errorf("asked %d times for one name", z.asked)
		}
		z.set(10*time.Second, nil, "10.0.0.2")
		reach("a.example", "10.0.0.1:80")
		time.Sleep(11 * time.Second)
		reach("a.example", "10.0.0.2:80")
		z.set(0, &net.DNSError{Err: "no such host", IsNotFound: true})
		time.Sleep(11 * time.Second)
		reach("a.example", "10.0.0.2:80") // the last answer serves on
		if _, err := c.Resolve(t.Context(), "b.example"); !errors.Is(err, ErrUnresolved) {
			t.Errorf("a name that is not there: %v", err)
		}
		reach("192.0.2.1:8080", "192.0.2.1:8080")
		if _, err := c.Resolve(t.Context(), "d.example"); !errors.Is(err, ErrTooMany) {
			t.Errorf("the fourth of three: %v", err)
		}
		time.Sleep(6 * time.Minute)
		z.set(time.Minute, nil, "10.0.0.4")
		for i := range 3 {
			reach(fmt.Sprintf("e%d.example:81", i), "10.0.0.4:81")
		}
		if n := len(c.Endpoints()); n != 3 {
			t.Errorf("%d hosts are kept", n)
		}
	})
}
