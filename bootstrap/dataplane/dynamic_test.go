package dataplane

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// TestAnyName: whatever host a request names is looked up, as istiod configures it for ALLOW_ANY_DYNAMIC_DNS.
func TestAnyName(t *testing.T) {
	h := newHeld(t)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(h.URL, "http://"))
	p, c := startProxy(t)
	c.next(t, xds.ClusterType)
	const cache = `{"name":"cache","dnsLookupFamily":"V4_ONLY","maxHosts":100}`
	up := &clusterv3.Cluster{}
	if err := protojson.Unmarshal([]byte(`{"name":"up","lbPolicy":"CLUSTER_PROVIDED","connectTimeout":"5s","clusterType":{
		"name":"envoy.clusters.dynamic_forward_proxy","typedConfig":{
		"@type":"type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
		"allowInsecureClusterOptions":true,"dnsCacheConfig":`+cache+`}}}`), up); err != nil {
		t.Fatal(err)
	}
	if nack := c.push(t, xds.ClusterType, map[string]proto.Message{"up": up}); nack != "" {
		t.Fatal(nack)
	}
	c.next(t, xds.ListenerType)
	listen := freePort(t)
	manager := strings.Replace(forwarding(false), `"httpFilters":[`, `"httpFilters":[{"name":"dfp","typedConfig":{
		"@type":"type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig","dnsCacheConfig":`+cache+`}},`, 1)
	if nack := c.push(t, xds.ListenerType, map[string]proto.Message{"http": listenerJSON(t, "http", listen, manager)}); nack != "" {
		t.Fatal(nack)
	}
	for end := time.Now().Add(5 * time.Second); p.State() != live && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	for host, want := range map[string]string{
		"127.0.0.1:" + port: "200 done", "localhost:" + port: "200 done", "256.0.0.1:" + port: "503 DNS resolution failure",
	} {
		nc := dialPort(t, listen)
		if _, err := fmt.Fprintf(nc, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		if got := fmt.Sprint(resp.StatusCode, " ", string(b)); got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
}
