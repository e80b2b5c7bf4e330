package hcm

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"

	// The types that configurations of the tests have.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
)

const typePrefix = `"@type":"type.googleapis.com/envoy.extensions.filters.http.`

// withFilter puts a filter before the router.
func withFilter(t testing.TB, config string) func(*hcmv3.HttpConnectionManager) {
	return func(p *hcmv3.HttpConnectionManager) {
		hf := &hcmv3.HttpFilter{}
		must(t, protojson.Unmarshal([]byte(`{"name":"f","typedConfig":{`+typePrefix+config+`}}`), hf))
		p.HttpFilters = append([]*hcmv3.HttpFilter{hf}, p.HttpFilters...)
	}
}

func TestFaults(t *testing.T) {
	b := newBackend(t, reply200("ok"))
	route := func(path, fault string) string {
		return fmt.Sprintf(`{"match":{"path":%q},"responseHeadersToAdd":[{"header":{"key":"x-resp","value":"1"}}],"route":{"cluster":"up"},
			"typedPerFilterConfig":{"f":{`+typePrefix+`fault.v3.HTTPFault",%s}}}`, path, fault)
	}
	all := `"percentage":{"numerator":1000000,"denominator":"MILLION"}`
	f := newFixture(t, `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[`+strings.Join([]string{
		route("/http", `"abort":{"httpStatus":555,`+all+`}`),
		route("/grpc", `"abort":{"grpcStatus":14,`+all+`}`),
		route("/ok", `"abort":{"grpcStatus":0,`+all+`}`),
		route("/never", `"abort":{"httpStatus":555,"percentage":{}}`),
		route("/nopercent", `"abort":{"httpStatus":555}`),
		route("/late", `"delay":{"fixedDelay":"0.01s",`+all+`}`),
		route("/other", `"upstreamCluster":"other","abort":{"httpStatus":555,`+all+`}`),
		route("/headers", `"headers":[{"name":"x-fault"}],"abort":{"httpStatus":555,`+all+`}`),
	}, ",")+`]}]}`, map[string][]string{"up": {b.addr}}, withFilter(t, `fault.v3.HTTPFault"`))
	const grpc = "content-type: application/grpc\r\n"
	for _, tc := range []struct {
		path, header  string
		status        int
		body, grpc    string
		flags, answer string
	}{
		{path: "/http", status: 555, body: "fault filter abort", flags: "FI"},
		{path: "/http", header: grpc, status: 200, grpc: "2", flags: "FI"},
		{path: "/grpc", header: grpc, status: 200, grpc: "14", flags: "FI"},
		{path: "/grpc", status: 200, body: "fault filter abort", flags: "FI"},
		{path: "/ok", header: grpc, status: 200, grpc: "0", flags: "FI"},
		{path: "/never", status: 200, body: "ok", flags: "-"},
		{path: "/nopercent", status: 200, body: "ok", flags: "-"},
		{path: "/late", status: 200, body: "ok", flags: "DI"},
		{path: "/other", status: 200, body: "ok", flags: "-"},
		{path: "/headers", status: 200, body: "ok", flags: "-"},
		{path: "/headers", header: "x-fault: 1\r\n", status: 555, body: "fault filter abort", flags: "FI"},
	} {
		resp, body := f.exchange("GET " + tc.path + " HTTP/1.1\r\nHost: h\r\n" + tc.header + "\r\n")
		if resp.StatusCode != tc.status || body != tc.body || resp.Header.Get("Grpc-Status") != tc.grpc || f.last().Flags.String() != tc.flags {
			t.Errorf("%s %q: %d %q grpc-status %q flags %s", tc.path, tc.header, resp.StatusCode, body, resp.Header.Get("Grpc-Status"), f.last().Flags)
		}
		if resp.Header.Get("X-Resp") != "1" {
			t.Errorf("%s: the route's response headers are missing: %v", tc.path, resp.Header)
		}
	}
	for _, bad := range []string{`"maxActiveFaults":1`, `"responseRateLimit":{}`, `"delay":{"headerDelay":{},` + all + `}`, `"abort":{"headerAbort":{},` + all + `}`} {
		if _, err := CompileRoutes(routesJSON(t, `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[`+route("/", bad)+`]}]}`)); err == nil || !strings.Contains(err.Error(), "not supported") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestCORS(t *testing.T) {
	b := newBackend(t, func(c net.Conn, _ *bufio.Reader, _ *http.Request) bool {
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: theirs\r\nContent-Length: 0\r\n\r\n")
		return err == nil
	})
	route := func(path, policy string) string {
		return fmt.Sprintf(`{"match":{"path":%q},"route":{"cluster":"up"},"typedPerFilterConfig":{"f":{`+typePrefix+`cors.v3.CorsPolicy",%s}}}`, path, policy)
	}
	f := newFixture(t, `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[`+strings.Join([]string{
		route("/exact", `"allowOriginStringMatch":[{"exact":"http://a"}],"allowMethods":"GET,PUT","allowHeaders":"x","exposeHeaders":"y","maxAge":"60","allowCredentials":true`),
		route("/any", `"allowOriginStringMatch":[{"exact":"*"}]`),
		route("/all", `"allowOriginStringMatch":[{"exact":"*"}],"allowMethods":"*","allowHeaders":"*","allowCredentials":true`),
		route("/regex", `"allowOriginStringMatch":[{"safeRegex":{"regex":"http://[ab]"}}],"forwardNotMatchingPreflights":false`),
		route("/off", `"allowOriginStringMatch":[{"exact":"*"}],"filterEnabled":{"defaultValue":{"numerator":0}}`),
	}, ",")+`]}]}`, map[string][]string{"up": {b.addr}}, withFilter(t, `cors.v3.Cors"`))
	pre := func(path, origin string) string {
		return "OPTIONS " + path + " HTTP/1.1\r\nHost: h\r\nOrigin: " + origin + "\r\nAccess-Control-Request-Method: PUT\r\n\r\n"
	}
	for _, tc := range []struct{ name, raw, origin, methods, expose string }{
		{"preflight", pre("/exact", "http://a"), "http://a", "GET,PUT", "y"},
		{"preflight of another origin goes on", pre("/exact", "http://b"), "theirs", "", ""},
		{"request", "GET /exact HTTP/1.1\r\nHost: h\r\nOrigin: http://a\r\n\r\n", "http://a", "", "y"},
		{"OPTIONS that is no preflight", "OPTIONS /exact HTTP/1.1\r\nHost: h\r\nOrigin: http://a\r\n\r\n", "http://a", "", "y"},
		{"no origin", "GET /exact HTTP/1.1\r\nHost: h\r\n\r\n", "theirs", "", ""},
		{"any origin", pre("/any", "http://z"), "http://z", "", ""},
		{"any method", pre("/all", "http://z"), "http://z", "PUT", ""},
		{"regex", pre("/regex", "http://b"), "http://b", "", ""},
		{"regex has to match all of it", pre("/regex", "http://bb"), "", "", ""},
		{"switched off", "GET /off HTTP/1.1\r\nHost: h\r\nOrigin: http://a\r\n\r\n", "theirs", "", ""},
	} {
		resp, _ := f.exchange(tc.raw)
		h := resp.Header
		if resp.StatusCode != http.StatusOK || h.Get("Access-Control-Allow-Origin") != tc.origin || h.Get("Access-Control-Allow-Methods") != tc.methods ||
			h.Get("Access-Control-Expose-Headers") != tc.expose {
			t.Errorf("%s: %d %v", tc.name, resp.StatusCode, h)
		}
	}
}

func TestHeaderMutation(t *testing.T) {
	var seen http.Header
	b := newBackend(t, func(c net.Conn, br *bufio.Reader, req *http.Request) bool {
		seen = req.Header
		return reply200("")(c, br, req)
	})
	per := func(v string) string {
		return `"typedPerFilterConfig":{"f":{` + typePrefix + `header_mutation.v3.HeaderMutationPerRoute","mutations":{"requestMutations":[
			{"append":{"header":{"key":"x-level","value":"` + v + `"},"appendAction":"OVERWRITE_IF_EXISTS_OR_ADD"}}]}}}`
	}
	for last, want := range map[string]string{"false": "table", "true": "route"} {
		f := newFixture(t, `{`+per("table")+`,"virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":"up"},`+per("route")+`}]}]}`,
			map[string][]string{"up": {b.addr}}, withFilter(t, `header_mutation.v3.HeaderMutation","mostSpecificHeaderMutationsWins":`+last+`,"mutations":{
			"requestMutations":[{"remove":"x-gone"},{"removeOnMatch":{"keyMatcher":{"prefix":"x-all-"}}},{"append":{"header":{"key":"x-path","value":"<%REQ(:path)%>%REQ(none)%"}}}],
			"responseMutations":[{"append":{"header":{"key":"x-resp","value":"%RESPONSE_CODE%"}}}]}`))
		resp, _ := f.exchange("GET /p HTTP/1.1\r\nHost: h\r\nX-Gone: 1\r\nX-All-A: 1\r\nX-All-B: 1\r\n\r\n")
		if seen.Get("X-Level") != want || seen.Get("X-Gone")+seen.Get("X-All-A")+seen.Get("X-All-B") != "" || seen.Get("X-Path") != "</p>" || resp.Header.Get("X-Resp") != "200" {
			t.Errorf("most specific wins %s: the server saw %v, the client %v", last, seen, resp.Header)
		}
	}
}

func TestHeaderRules(t *testing.T) {
	compile := func(js string) headerOps {
		rt, err := CompileRoutes(routesJSON(t, `{"requestHeadersToAdd":[`+js+`]}`))
		must(t, err)
		return rt.headers
	}
	add := func(k, v, action string) string {
		return fmt.Sprintf(`{"header":{"key":%q,"value":%q},"appendAction":%q}`, k, v, action)
	}
	for _, tc := range []struct{ rules, want string }{
		{add("x", "2", "APPEND_IF_EXISTS_OR_ADD"), "map[X:[1 2]]"},
		{add("x", "2", "ADD_IF_ABSENT"), "map[X:[1]]"},
		{add("y", "2", "ADD_IF_ABSENT"), "map[X:[1] Y:[2]]"},
		{add("x", "2", "OVERWRITE_IF_EXISTS"), "map[X:[2]]"},
		{add("y", "2", "OVERWRITE_IF_EXISTS"), "map[X:[1]]"},
		{add("x", "2", "OVERWRITE_IF_EXISTS_OR_ADD"), "map[X:[2]]"},
		{add("x", "3", "APPEND_IF_EXISTS_OR_ADD") + "," + add("x", "2", "OVERWRITE_IF_EXISTS_OR_ADD"), "map[X:[2 3]]"},
		{add("x", "2", "OVERWRITE_IF_EXISTS_OR_ADD") + "," + add("y", "%REQ(x)%", "APPEND_IF_EXISTS_OR_ADD"), "map[X:[2] Y:[1]]"},
		{add("y", "%REQ(none)%", "APPEND_IF_EXISTS_OR_ADD"), "map[X:[1]]"},
		{add("y", "a%REQ(none)%b", "APPEND_IF_EXISTS_OR_ADD"), "map[X:[1] Y:[ab]]"},
		{add("y", "100%%", "APPEND_IF_EXISTS_OR_ADD"), "map[X:[1] Y:[100%]]"},
		{`{"header":{"key":"y"},"keepEmptyValue":true}`, "map[X:[1] Y:[]]"},
		{`{"header":{"key":"x","value":"2"},"append":false}`, "map[X:[2]]"},
	} {
		s := stream(t, &Manager{}, "GET", "/", "x", "1")
		ops := compile(tc.rules)
		ops.request(s)
		if got := fmt.Sprint(s.req.Header); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.rules, got, tc.want)
		}
	}
}

func TestGRPCWebText(t *testing.T) {
	var seen http.Header
	var got string
	b := newBackend(t, func(c net.Conn, _ *bufio.Reader, req *http.Request) bool {
		body, _ := io.ReadAll(req.Body)
		seen, got = req.Header, string(body)
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\nTrailer: Grpc-Status\r\n\r\n"+
			"6\r\nanswer\r\n0\r\nGrpc-Status: 0\r\n\r\n")
		return err == nil
	})
	f := newFixture(t, simpleRoutes, map[string][]string{"up": {b.addr}}, withFilter(t, `grpc_web.v3.GrpcWeb"`))
	// Pieces with their own padding, as clients send them for streams.
	body := base64.StdEncoding.EncodeToString([]byte("que")) + base64.StdEncoding.EncodeToString([]byte("stion"))
	call := func(kind, accept, body string) (*http.Response, string) {
		return f.exchange(fmt.Sprintf("POST /s/m HTTP/1.1\r\nHost: h\r\nContent-Type: application/grpc-web%s\r\nAccept: %s\r\nContent-Length: %d\r\n\r\n%s", kind, accept, len(body), body))
	}
	const frame = "answer\x80\x00\x00\x00\x0fgrpc-status:0\r\n"
	resp, text := call("-text+proto", "application/grpc-web-text", body)
	plain := decodePieces(t, text)
	if resp.Header.Get("Content-Type") != "application/grpc-web-text+proto" || plain != frame || got != "question" || seen.Get("Content-Type") != "application/grpc+proto" || seen.Get("Te") != "trailers" {
		t.Errorf("text: %v %q; the server saw %q %v", resp.Header, plain, got, seen)
	}
	resp, text = call("", "*/*", "question")
	if resp.Header.Get("Content-Type") != "application/grpc-web+proto" || text != frame || got != "question" || resp.Trailer.Get("Grpc-Status") != "" {
		t.Errorf("binary: %v %q; the server saw %q", resp.Header, text, got)
	}
	gone := newFixture(t, `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":"gone"}}]}]}`, nil, withFilter(t, `grpc_web.v3.GrpcWeb"`))
	resp, text = gone.exchange("POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/grpc-web\r\nContent-Length: 0\r\n\r\n")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Grpc-Status") != "14" || resp.Header.Get("Content-Type") != "application/grpc-web+proto" || text != "" {
		t.Errorf("an answer of the proxy: %d %v %q", resp.StatusCode, resp.Header, text)
	}
}

func decodePieces(t testing.TB, text string) string {
	t.Helper()
	b, err := io.ReadAll(&textBody{src: io.NopCloser(strings.NewReader(text))})
	must(t, err)
	return string(b)
}
