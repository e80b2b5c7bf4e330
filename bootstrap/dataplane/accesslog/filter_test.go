package accesslog

import (
	"net/http"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

func TestFilters(t *testing.T) {
	start := time.Unix(1000, 0)
	e := &Entry{
		Start: start, End: start.Add(150 * time.Millisecond), Protocol: "HTTP/2", Method: "GET", ResponseCode: 404, Flags: NoRouteFound | RateLimited,
		Request:  http.Header{"X-Request-Id": {"0000002a-0000-4000-8000-000000000000"}, "X-A": {"1"}, "Content-Type": {"application/grpc"}},
		Response: http.Header{"Grpc-Status": {"5"}},
		Metadata: func(_ MetadataSource, filter string, path []string) (any, bool) {
			return "v", filter == "f" && len(path) == 1
		},
	}
	for js, want := range map[string]bool{
		`{}`: true,
		`{"statusCodeFilter":{"comparison":{"op":"GE","value":{"defaultValue":400,"runtimeKey":"k"}}}}`: true,
		`{"statusCodeFilter":{"comparison":{"op":"EQ","value":{"defaultValue":400,"runtimeKey":"k"}}}}`: false,
		`{"statusCodeFilter":{"comparison":{"op":"NE","value":{"defaultValue":400,"runtimeKey":"k"}}}}`: true,
		`{"durationFilter":{"comparison":{"op":"LE","value":{"defaultValue":150,"runtimeKey":"k"}}}}`:   true,
		`{"durationFilter":{"comparison":{"op":"GE","value":{"defaultValue":151,"runtimeKey":"k"}}}}`:   false,
		`{"notHealthCheckFilter":{}}`: true,
		`{"traceableFilter":{}}`:      false,
		`{"runtimeFilter":{"runtimeKey":"k","percentSampled":{"numerator":43}}}`:        true, // 0x2a is 42
		`{"runtimeFilter":{"runtimeKey":"k","percentSampled":{"numerator":42}}}`:        false,
		`{"headerFilter":{"header":{"name":"x-a","stringMatch":{"exact":"1"}}}}`:        true,
		`{"headerFilter":{"header":{"name":":method","stringMatch":{"exact":"POST"}}}}`: false,
		`{"responseFlagFilter":{}}`:                                                                                                           true,
		`{"responseFlagFilter":{"flags":["NR"]}}`:                                                                                             true,
		`{"responseFlagFilter":{"flags":["UF"]}}`:                                                                                             false,
		`{"grpcStatusFilter":{"statuses":["NOT_FOUND"]}}`:                                                                                     true,
		`{"grpcStatusFilter":{"statuses":["NOT_FOUND"],"exclude":true}}`:                                                                      false,
		`{"logTypeFilter":{"types":["DownstreamEnd"]}}`:                                                                                       true,
		`{"logTypeFilter":{"types":["TcpConnectionEnd"]}}`:                                                                                    false,
		`{"metadataFilter":{"matcher":{"filter":"f","path":[{"key":"k"}],"value":{"stringMatch":{"exact":"v"}}}}}`:                            true,
		`{"metadataFilter":{"matcher":{"filter":"f","path":[{"key":"k"}],"value":{"stringMatch":{"exact":"w"}}}}}`:                            false,
		`{"metadataFilter":{"matcher":{"filter":"g","path":[{"key":"k"}],"value":{"stringMatch":{"exact":"w"}}}}}`:                            true,
		`{"metadataFilter":{"matcher":{"filter":"g","path":[{"key":"k"}],"value":{"stringMatch":{"exact":"w"}}},"matchIfKeyNotFound":false}}`: false,
		`{"andFilter":{"filters":[{"responseFlagFilter":{"flags":["NR"]}},{"responseFlagFilter":{"flags":["UF"]}}]}}`:                         false,
		`{"orFilter":{"filters":[{"responseFlagFilter":{"flags":["NR"]}},{"responseFlagFilter":{"flags":["UF"]}}]}}`:                          true,
	} {
		p := &accesslogv3.AccessLogFilter{}
		if err := protojson.Unmarshal([]byte(js), p); err != nil {
			t.Fatalf("%s: %v", js, err)
		}
		f, err := CompileFilter(p)
		if err != nil {
			t.Errorf("%s: %v", js, err)
			continue
		}
		if got := f.Keeps(e); got != want {
			t.Errorf("%s: %v, want %v", js, got, want)
		}
	}
}
