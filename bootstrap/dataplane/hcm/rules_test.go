package hcm

import (
	"bufio"
	"net"
	"net/http"
	"testing"
)

// TestLevelsOfRules: rules of the weighted cluster come first, those of the route configuration last, unless the most
// specific are to win; a host of the route stands over that of the weighted cluster.
func TestLevelsOfRules(t *testing.T) {
	var seen *http.Request
	b := newBackend(t, func(c net.Conn, br *bufio.Reader, req *http.Request) bool {
		seen = req
		return reply200("")(c, br, req)
	})
	set := func(v string) string {
		rule := `[{"header":{"key":"x-level","value":"` + v + `"},"appendAction":"OVERWRITE_IF_EXISTS_OR_ADD"}]`
		return `"requestHeadersToAdd":` + rule + `,"responseHeadersToAdd":` + rule
	}
	for _, tc := range []struct{ table, route, level, host string }{
		{"", "", "table", "weighted.example"},
		{`"mostSpecificHeaderMutationsWins":true,`, "", "route", "weighted.example"},
		{"", `"hostRewriteLiteral":"route.example",`, "table", "route.example"},
	} {
		f := newFixture(t, `{`+tc.table+set("table")+`,"virtualHosts":[{"name":"v","domains":["*"],`+set("host")+`,"routes":[{"match":{"prefix":"/"},`+set("route")+`,
			"route":{`+tc.route+`"weightedClusters":{"clusters":[{"name":"gone","weight":0},{"name":"up","weight":1,"hostRewriteLiteral":"weighted.example",`+set("weighted")+`}]}}}]}]}`,
			map[string][]string{"up": {b.addr}}, nil)
		resp, _ := f.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		if resp.StatusCode != http.StatusOK || seen.Header.Get("X-Level") != tc.level || resp.Header.Get("X-Level") != tc.level || seen.Host != tc.host || seen.Header.Get("X-Envoy-Original-Host") != "h" {
			t.Errorf("%+v: %d, the server saw %s %v, the client %v", tc, resp.StatusCode, seen.Host, seen.Header, resp.Header)
		}
	}
}

func TestIdleTimeoutOfARoute(t *testing.T) {
	b := newBackend(t, func(_ net.Conn, br *bufio.Reader, _ *http.Request) bool {
		_, _ = br.Peek(1)
		return false
	})
	f := newFixture(t, `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":"up","timeout":"0s","idleTimeout":"0.03s"}}]}]}`,
		map[string][]string{"up": {b.addr}}, nil)
	if resp, body := f.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != http.StatusGatewayTimeout || body != "stream timeout" || f.last().Flags.String() != "SI" {
		t.Errorf("%d %q %s", resp.StatusCode, body, f.last().Flags)
	}
}
