package hcm

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/http/header_formatters/preserve_case/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

const keepNames = `{"headerKeyFormat":{"statefulFormatter":{"name":"preserve_case","typedConfig":{
	"@type":"type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"}}}}`

// TestNamesKeepTheirCase sends raw bytes through to see the names as they go out on both sides.
func TestNamesKeepTheirCase(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = ln.Close() }()
	heads := make(chan string, 2)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			br := bufio.NewReader(c)
			var head strings.Builder
			for line := ""; line != "\r\n"; {
				if line, err = br.ReadString('\n'); err != nil {
					return
				}
				head.WriteString(line)
			}
			_, _ = io.CopyN(io.Discard, br, 2)
			heads <- head.String()
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX-ANSWER: 1\r\nCONTENT-length: 2\r\nplain: 1\r\n\r\nok")
			_ = c.Close()
		}
	}()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	must(t, err)
	for _, keep := range []bool{true, false} {
		f := newFixture(t, strings.Replace(simpleRoutes, `"up"`, `"case"`, 1), nil, func(p *hcmv3.HttpConnectionManager) {
			if keep {
				q := &hcmv3.HttpConnectionManager{}
				must(t, protojson.Unmarshal([]byte(`{"httpProtocolOptions":`+keepNames+`}`), q))
				p.HttpProtocolOptions = q.GetHttpProtocolOptions()
			}
		})
		options := `{}`
		if keep {
			options = keepNames
		}
		c := &clusterv3.Cluster{}
		must(t, protojson.Unmarshal([]byte(`{"name":"case","type":"STATIC","loadAssignment":{"clusterName":"case","endpoints":[{"lbEndpoints":[
			{"endpoint":{"address":{"socketAddress":{"address":"127.0.0.1","portValue":`+port+`}}}}]}]},"typedExtensionProtocolOptions":{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
			"explicitHttpConfig":{"httpProtocolOptions":`+options+`}}}}`), c))
		must(t, f.env.Clusters.AddStatic(c))
		cli := f.connect()
		_, err := io.WriteString(cli, "POST / HTTP/1.1\r\nHOST: h\r\nX-MiXed: 1\r\nlower: 1\r\nContent-LENGTH: 2\r\nConnection: close\r\n\r\nhi")
		must(t, err)
		b, err := io.ReadAll(cli)
		must(t, err)
		head := <-heads
		for _, want := range []string{"HOST: h", "X-MiXed: 1", "lower: 1", "Content-LENGTH: 2", "x-request-id: "} {
			if strings.Contains(head, "\r\n"+want) != (keep || want == strings.ToLower(want)) {
				t.Errorf("keep %v: %q in %q", keep, want, head)
			}
		}
		for _, want := range []string{"X-ANSWER: 1", "CONTENT-length: 2", "plain: 1", "server: envoy"} {
			if strings.Contains(string(b), "\r\n"+want+"\r\n") != (keep || want == strings.ToLower(want)) {
				t.Errorf("keep %v: %q in %q", keep, want, b)
			}
		}
	}
}
