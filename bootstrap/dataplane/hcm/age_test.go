package hcm

import (
	"bufio"
	"io"
	"net/http"
	"testing"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

func TestOldConnectionsEndAfterAResponse(t *testing.T) {
	b := newBackend(t, reply200("ok"))
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, func(p *hcmv3.HttpConnectionManager) {
		q := &hcmv3.HttpConnectionManager{}
		must(t, protojson.Unmarshal([]byte(`{"commonHttpProtocolOptions":{"maxConnectionDuration":"0.02s"},"via":"here"}`), q))
		p.CommonHttpProtocolOptions, p.Via = q.GetCommonHttpProtocolOptions(), q.GetVia()
	})
	c := f.connect()
	br := bufio.NewReader(c)
	for n := 1; ; n++ {
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\nVia: before\r\n\r\n")
		must(t, err)
		resp, err := http.ReadResponse(br, nil)
		must(t, err)
		if _, err = io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Via") != "here" {
			t.Fatalf("%d %v %v", resp.StatusCode, resp.Header, err)
		}
		if resp.Close {
			break
		}
		if n > 10_000 {
			t.Fatal("the connection goes on for ever")
		}
	}
	if _, err := br.Peek(1); err != io.EOF {
		t.Errorf("after the last response: %v", err)
	}
}
