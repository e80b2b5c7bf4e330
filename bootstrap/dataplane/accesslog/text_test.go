package accesslog_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	reqwithoutqueryv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/req_without_query/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
)

var start = time.Date(2026, 3, 9, 8, 7, 6, 54_321_000, time.UTC)

// request is a request through a sidecar that went well.
func request() *accesslog.Entry {
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	ap := netip.MustParseAddrPort
	return &accesslog.Entry{
		Start: start, RequestEnd: at(1), UpstreamRequestEnd: at(2), UpstreamResponseStart: at(11), End: at(14),
		Protocol: "HTTP/1.1", Method: "GET", Scheme: "http", Authority: "reviews:9080", Path: "/reviews/0?a=1&b=%20x#f",
		Request: http.Header{
			"User-Agent": {"curl/8"}, "X-Request-Id": {"7f3c"}, "X-Two": {"one", "two"}, "X-Empty": {""},
		},
		Response:     http.Header{"X-Envoy-Upstream-Service-Time": {"9"}},
		Trailers:     http.Header{"X-Trailer": {"t"}},
		ResponseCode: 200, ResponseCodeDetails: "via_upstream",
		BytesReceived: 3, BytesSent: 295, RouteName: "default",
		Downstream: accesslog.Downstream{
			ConnectionID:  7,
			LocalAddress:  ap("10.96.0.7:9080"),
			RemoteAddress: ap("[::ffff:10.244.1.5]:40112"), DirectRemoteAddress: ap("[fd00::1]:9"),
		},
		Upstream: accesslog.Upstream{
			Cluster: "outbound|9080||reviews.bookinfo.svc.cluster.local",
			Host:    ap("10.244.2.9:9080"), LocalAddress: ap("10.244.1.5:50001"), RemoteAddress: ap("10.244.2.9:9080"),
			Protocol: "HTTP/2", Attempts: 2,
		},
	}
}

// connection is a TCP connection that was refused.
func connection() *accesslog.Entry {
	return &accesslog.Entry{
		Start: start, End: start.Add(time.Second), Flags: accesslog.UpstreamConnectionFailure | accesslog.UpstreamRetryLimitExceeded,
		ConnectionTerminationDetails: "rbac denied",
		Downstream:                   accesslog.Downstream{ServerName: "outbound_.9000_._.tcp.example"},
		Upstream:                     accesslog.Upstream{Cluster: "c", TransportFailureReason: "TLS_error: bad\tcert"},
	}
}

func text(t *testing.T, format string) *accesslog.Formatter {
	t.Helper()
	f, err := accesslog.CompileText(format)
	if err != nil {
		t.Fatalf("%s: %v", format, err)
	}
	return f
}

func TestText(t *testing.T) {
	for _, c := range []struct{ format, http, tcp string }{
		{"100%% plain\n", "100% plain\n", "100% plain\n"},
		{"[%START_TIME%]", "[2026-03-09T08:07:06.054Z]", "[2026-03-09T08:07:06.054Z]"},
		{"%PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS%", "HTTP/1.1 200 -", "- 0 UF,URX"},
		{"%RESPONSE_FLAGS_LONG%", "-", "UpstreamConnectionFailure,UpstreamRetryLimitExceeded"},
		{"%REQ(:METHOD)% %REQ(:path)% %REQ(Host)% %REQ(:SCHEME)%", "GET /reviews/0?a=1&b=%20x#f reviews:9080 http", "- - - -"},
		{"%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):4%", "/rev", "-"},
		{"%REQ(user-agent?:path)% %REQ(x-two)% %REQ(none)% '%REQ(x-empty)%'", "curl/8 one - ''", "- - - '-'"},
		{"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% %RESP(:status)% %TRAILER(x-trailer)%", "9 200 t", "- - -"},
		{"%REQUEST_HEADER(user-agent):2% %RESPONSE_HEADER(a?:status)% %RESPONSE_TRAILER(x-trailer)%", "cu 200 t", "- - -"},
		{"%PATH% %PATH(NQ)% %PATH(WQ:PATH)% %PATH(NQ:ORIG)%", "/reviews/0?a=1&b=%20x#f /reviews/0 /reviews/0?a=1&b=%20x#f -", "- - - -"},
		{"%QUERY_PARAM(a)% '%QUERY_PARAM(b)%' %QUERY_PARAM(c)%", "1 ' x' -", "- '-' -"},
		{"%BYTES_RECEIVED% %BYTES_SENT%", "3 295", "0 0"},
		{"%DURATION% %REQUEST_DURATION% %REQUEST_TX_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "14 1 2 11 3", "1000 - - - -"},
		{"%COMMON_DURATION(US_RX_BEG:DS_TX_END:us)% %COMMON_DURATION(DS_TX_END:DS_RX_BEG)%", "3000 -", "- -"},
		{"%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS%", "via_upstream -", "- rbac denied"},
		{"%UPSTREAM_TRANSPORT_FAILURE_REASON%", "-", "TLS_error:_bad_cert"},
		{"%UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW%", "outbound|9080||reviews.bookinfo.svc.cluster.local outbound|9080||reviews.bookinfo.svc.cluster.local", "c c"},
		{"%UPSTREAM_HOST% %UPSTREAM_HOST_NAME% %UPSTREAM_PROTOCOL% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "10.244.2.9:9080 10.244.2.9:9080 HTTP/2 2", "- - - 0"},
		{"%UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_REMOTE_PORT% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.244.1.5:50001 9080 10.244.2.9", "- - -"},
		{"%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_PORT%", "10.96.0.7:9080 9080", "- -"},
		{"%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "10.244.1.5:40112 [fd00::1]:9", "- -"},
		{"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%", "10.244.1.5 fd00::1", "- -"},
		{"%REQUESTED_SERVER_NAME% %ROUTE_NAME% %CONNECTION_ID%", "- default 7", "invalid:outbound_.9000_._.tcp.example - 0"},
		{"%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_PEER_CERT_V_END%", "- - -", "- - -"},
		{"%DYNAMIC_METADATA(a:b)% %FILTER_STATE(k)% %METADATA(ROUTE:a:b)%", "- - -", "- - -"},
		{"%GRPC_STATUS% %TRACE_ID% '%LOCAL_REPLY_BODY%'", "- - ''", "- - ''"},
	} {
		f := text(t, c.format)
		if got := string(f.Format(request())); got != c.http {
			t.Errorf("%s: HTTP: got %q, want %q", c.format, got, c.http)
		}
		if got := string(f.Format(connection())); got != c.tcp {
			t.Errorf("%s: TCP: got %q, want %q", c.format, got, c.tcp)
		}
	}
}

func TestOmitEmptyValues(t *testing.T) {
	f, err := accesslog.Compile(&corev3.SubstitutionFormatString{
		OmitEmptyValues: true,
		Format:          &corev3.SubstitutionFormatString_TextFormat{TextFormat: "a%REQ(none)%b%RESPONSE_FLAGS%"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(f.Format(request())); got != "ab-" {
		t.Errorf("got %q, want %q", got, "ab-")
	}
}

func TestStartTimeFormats(t *testing.T) {
	for format, want := range map[string]string{
		"%Y/%m/%dT%H:%M:%S%z %s": "2026/03/09T08:07:06+0000 1773043626",
		"%s.%3f":                 "1773043626.054",
		"%s.%6f":                 "1773043626.054321",
		"%s.%9f %f":              "1773043626.054321000 054321000",
		"%b %e %H:%M:%E2S %Y %Z": "Mar  9 08:07:06.05 2026 UTC",
		"%E*S|%E0S|%E3f|%E*f":    "06.054321|06|054|054321",
		"%F %T %D %R %I %p %%":   "2026-03-09 08:07:06 03/09/26 08:07 08 AM %",
		"%A %a %B %j %u %w %Ez":  "Monday Mon March 068 1 1 +00:00",
	} {
		if got := string(text(t, "%START_TIME("+format+")%").Format(request())); got != want {
			t.Errorf("%s: got %q, want %q", format, got, want)
		}
	}
	whole := &accesslog.Entry{Start: start.Truncate(time.Second)}
	if got := string(text(t, "%START_TIME(%E*S %E*f)%").Format(whole)); got != "06 0" {
		t.Errorf("without a fraction: got %q", got)
	}
	if got := string(text(t, "%START_TIME%").Format(&accesslog.Entry{})); got != "-" {
		t.Errorf("without a time: got %q", got)
	}
}

func TestGRPCStatus(t *testing.T) {
	grpc := func(change func(*accesslog.Entry)) *accesslog.Entry {
		e := &accesslog.Entry{ResponseCode: 200, Request: http.Header{"Content-Type": {"application/grpc+proto"}}}
		change(e)
		return e
	}
	f := text(t, "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%")
	for want, e := range map[string]*accesslog.Entry{
		"OK OK 0":                        grpc(func(e *accesslog.Entry) { e.Trailers = http.Header{"Grpc-Status": {"0"}} }),
		"NotFound NOT_FOUND 5":           grpc(func(e *accesslog.Entry) { e.Response = http.Header{"Grpc-Status": {"5"}} }),
		"Unavailable UNAVAILABLE 14":     grpc(func(e *accesslog.Entry) { e.ResponseCode = 503 }),
		"99 99 99":                       grpc(func(e *accesslog.Entry) { e.Trailers = http.Header{"Grpc-Status": {"99"}} }),
		"- - -":                          grpc(func(e *accesslog.Entry) { e.Request.Set("Content-Type", "application/grpc-web") }),
		"Unknown UNKNOWN 2":              grpc(func(*accesslog.Entry) {}),
		"Unimplemented UNIMPLEMENTED 12": grpc(func(e *accesslog.Entry) { e.ResponseCode = 404 }),
	} {
		if got := string(f.Format(e)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestMetadataAndFilterState(t *testing.T) {
	e := &accesslog.Entry{
		Metadata: func(source accesslog.MetadataSource, filter string, path []string) (any, bool) {
			if source != accesslog.Dynamic || filter != "com.test" {
				return nil, false
			}
			var v any = map[string]any{"key": "foo", "list": []any{"x", 1.0, 2.5, true, nil}, "object": map[string]any{"b": "2", "a": "\"1\""}}
			for _, k := range path {
				m, _ := v.(map[string]any)
				var ok bool
				if v, ok = m[k]; !ok {
					return nil, false
				}
			}
			return v, true
		},
		FilterState: func(key string) (any, bool) {
			return map[string]any{"ip": "10.0.0.1"}, key == "address"
		},
	}
	for format, want := range map[string]string{
		"%DYNAMIC_METADATA(com.test:key)%":                "foo",
		"%DYNAMIC_METADATA(com.test:object)%":             `{"a":"\"1\"","b":"2"}`,
		"%DYNAMIC_METADATA(com.test:object:b)%":           "2",
		"%DYNAMIC_METADATA(com.test:list)%":               `["x",1,2.5,true,null]`,
		"%DYNAMIC_METADATA(com.test):8%":                  `{"key":"`,
		"%DYNAMIC_METADATA(com.test:unknown)%":            "-",
		"%DYNAMIC_METADATA(com.unknown)%":                 "-",
		"%METADATA(DYNAMIC:com.test:key):2%":              "fo",
		"%METADATA(CLUSTER:com.test:key)%":                "-",
		"%CLUSTER_METADATA(com.test:key)%":                "-",
		"%FILTER_STATE(address)%":                         `{"ip":"10.0.0.1"}`,
		"%FILTER_STATE(address:FIELD:ip)%":                "10.0.0.1",
		"%FILTER_STATE(address:FIELD:port)%":              "-",
		"%FILTER_STATE(none:PLAIN)%":                      "-",
		"%FILTER_STATE(none)% %FILTER_STATE(none:PLAIN)%": "- -",
	} {
		if got := string(text(t, format).Format(e)); got != want {
			t.Errorf("%s: got %q, want %q", format, got, want)
		}
	}
	e.FilterState = func(string) (any, bool) { return "spiffe://a", true }
	if got := string(text(t, "%FILTER_STATE(k:PLAIN)% %FILTER_STATE(k)%").Format(e)); got != `spiffe://a "spiffe://a"` {
		t.Errorf("string objects: got %q", got)
	}
}

func TestCompileErrorsNameTheOperator(t *testing.T) {
	for format, want := range map[string]string{
		"%NOPE%":                                   "operator NOPE: not supported",
		"%TLS_JA3_FINGERPRINT%":                    "operator TLS_JA3_FINGERPRINT: not supported",
		"%REQ_WITHOUT_QUERY(:PATH)%":               "operator REQ_WITHOUT_QUERY: not supported",
		"%REQ%":                                    "operator REQ: needs an argument",
		"%REQ()%":                                  "operator REQ: needs an argument",
		"%REQ(A?B?C)%":                             "more than one alternative",
		"%PROTOCOL(x)%":                            "operator PROTOCOL: takes no argument",
		"%PROTOCOL:3%":                             "operator PROTOCOL: takes no length",
		"%START_TIME(%Q)%":                         "operator START_TIME: time format specifier %Q",
		"%START_TIME(%n)%":                         "specifier %n",
		"%START_TIME(a%)%":                         "ends in %",
		"%GRPC_STATUS(x)%":                         "operator GRPC_STATUS",
		"%PATH(XX)%":                               "operator PATH",
		"%PATH(WQ:XX)%":                            "operator PATH",
		"%METADATA(NOPE:a)%":                       `metadata type "NOPE"`,
		"%DYNAMIC_METADATA(:a)%":                   "names no metadata",
		"%FILTER_STATE(a:NOPE)%":                   "NOPE",
		"%FILTER_STATE(a:FIELD)%":                  "FIELD",
		"%FILTER_STATE(:PLAIN)%":                   "has no key",
		"%COMMON_DURATION(a)%":                     "FROM:TO",
		"%COMMON_DURATION(a:DS_TX_END)%":           `time point "a"`,
		"%COMMON_DURATION(DS_RX_BEG:DS_TX_END:h)%": `unit "h"`,
		"50% of":                                   "position 2",
		"%req(a)%":                                 "position 0",
		"%REQ(a):99999999999999999999%":            "length",
	} {
		if _, err := accesslog.CompileText(format); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want %q", format, err, want)
		}
	}
}

func TestExtensions(t *testing.T) {
	with := func(m proto.Message) *corev3.SubstitutionFormatString {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return &corev3.SubstitutionFormatString{
			Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
				Specifier: &corev3.DataSource_InlineString{InlineString: "%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH):5%"},
			}},
			Formatters: []*corev3.TypedExtensionConfig{{Name: "x", TypedConfig: a}},
		}
	}
	f, err := accesslog.Compile(with(&reqwithoutqueryv3.ReqWithoutQuery{}))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(f.Format(request())); got != "/revi" {
		t.Errorf("got %q", got)
	}
	if _, err := accesslog.Compile(with(&structpb.Struct{})); err == nil || !strings.Contains(err.Error(), "protobuf.Struct") {
		t.Errorf("got error %v, want one that names the extension", err)
	}
	file := &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{
		TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: "/etc/passwd"}},
	}}
	if _, err := accesslog.Compile(file); err == nil || !strings.Contains(err.Error(), "Filename") {
		t.Errorf("got error %v, want one that names the specifier", err)
	}
	if _, err := accesslog.Compile(nil); err == nil {
		t.Error("no format compiles")
	}
}
