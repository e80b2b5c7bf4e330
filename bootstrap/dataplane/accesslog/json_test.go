package accesslog_test

import (
	"encoding/json"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
)

func jsonFormat(t *testing.T, omit bool, format string) (*accesslog.Formatter, error) {
	t.Helper()
	var s structpb.Struct
	if err := s.UnmarshalJSON([]byte(format)); err != nil {
		t.Fatal(err)
	}
	return accesslog.Compile(&corev3.SubstitutionFormatString{
		OmitEmptyValues: omit, Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: &s},
	})
}

func TestJSON(t *testing.T) {
	const nested = `{"o":{"x":"%REQ(none)%"},"a":["%REQ(none)%"],"k":"%ROUTE_NAME%","n":"%REQ(none)%"}`
	for _, c := range []struct {
		format string
		omit   bool
		want   string
	}{
		{`{}`, false, `{}`},
		{`{"b":"%PROTOCOL%","a":"%RESPONSE_CODE%","c":1.5,"d":true,"e":2,"f":"text","g":""}`, false, `{"a":200,"b":"HTTP/1.1","c":1.5,"d":true,"e":2,"f":"text","g":""}`},
		{`{"a":"%DURATION%","b":"%DURATION%.0","c":"%REQ(none)%-%RESPONSE_FLAGS%"}`, false, `{"a":14,"b":"14.0","c":"---"}`},
		{`{"a":"%REQ(none)%","b":"%UPSTREAM_PROTOCOL%","c":"%DOWNSTREAM_LOCAL_PORT%"}`, false, `{"a":null,"b":"HTTP/2","c":9080}`},
		{`{"a":"%%"}`, false, `{"a":"%"}`},
		{nested, false, `{"a":[null],"k":"default","n":null,"o":{"x":null}}`},
		{nested, true, `{"a":[],"k":"default"}`},
		{`{"a":"%REQ(none)%"}`, true, `{}`},
		{`{"a":"x%REQ(none)%"}`, true, `{"a":"x"}`},
		{`{"a":"%START_TIME%","b":"%UPSTREAM_HOST%"}`, false, `{"a":"2026-03-09T08:07:06.054Z","b":"10.244.2.9:9080"}`},
	} {
		f, err := jsonFormat(t, c.omit, c.format)
		if err != nil {
			t.Fatalf("%s: %v", c.format, err)
		}
		if got := string(f.Format(request())); got != c.want+"\n" {
			t.Errorf("%s: got %s, want %s", c.format, got, c.want)
		}
	}
	for format, want := range map[string]string{
		`{"a":null}`:                `key "a"`,
		`{"a":["%NOPE%"]}`:          "element 0: operator NOPE",
		`{"a":{"b":"%REQ(a?b?c)"}}`: `key "a": key "b"`,
	} {
		if _, err := jsonFormat(t, false, format); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want %q", format, err, want)
		}
	}
}

func TestJSONStaysValid(t *testing.T) {
	f, err := jsonFormat(t, false, `{"a\"":"%REQ(user-agent)%","b":"<%REQ(user-agent)%>","m":"%DYNAMIC_METADATA(f)%"}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, agent := range []string{"plain", `"quoted"\`, "line\r\n\tbreak\b\f", "\x00\x1f\x7f", "grün ☃", "\xff\xfe", "</script>"} {
		e := request()
		e.Request.Set("User-Agent", agent)
		e.Metadata = func(accesslog.MetadataSource, string, []string) (any, bool) {
			return map[string]any{agent: []string{agent}}, true
		}
		want := strings.ToValidUTF8(strings.ReplaceAll(agent, "\xff\xfe", "\xff \xfe"), "\ufffd")
		want = strings.ReplaceAll(want, "\ufffd \ufffd", "\ufffd\ufffd")
		var got struct {
			A string `json:"a\""` //nolint:staticcheck // the key is to have a quotation mark
			B string
			M map[string][]string
		}
		line := f.Format(e)
		if strings.Count(string(line), "\n") != 1 {
			t.Errorf("%q: not one line: %q", agent, line)
		}
		if err := json.Unmarshal(line, &got); err != nil {
			t.Errorf("%q: %v in %s", agent, err, line)
			continue
		}
		if got.B != "<"+want+">" || len(got.M[want]) != 1 || got.M[want][0] != want {
			t.Errorf("%q: got %+v", agent, got)
		}
	}
}
