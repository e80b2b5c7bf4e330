package hcm

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// recorder is a backend that tells of each request as "METHOD path host header=... body".
func recorder(t testing.TB, answer string) (*backend, <-chan string) {
	seen := make(chan string, 64)
	b := newBackend(t, func(c net.Conn, _ *bufio.Reader, req *http.Request) bool {
		body, err := io.ReadAll(req.Body)
		end := ""
		if err != nil {
			end = " broken"
		}
		seen <- fmt.Sprintf("%s %s %s x=%s %s%s", req.Method, req.RequestURI, req.Host, req.Header.Get("X"), body, end)
		if err != nil {
			return false
		}
		_, err = io.WriteString(c, answer)
		return err == nil
	})
	return b, seen
}

const ok200 = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func TestMirrors(t *testing.T) {
	first, seen1 := recorder(t, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
	second, seen2 := recorder(t, ok200)
	third, seen3 := recorder(t, ok200)
	main, seen := recorder(t, ok200)
	f := newFixture(t, `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},
		"requestHeadersToAdd":[{"header":{"key":"x","value":"1"}}],"route":{"cluster":"up","prefixRewrite":"/n/","timeout":"5s","requestMirrorPolicies":[
		{"cluster":"first"},
		{"cluster":"second","disableShadowHostSuffixAppend":true,"runtimeFraction":{"defaultValue":{"numerator":100}}},
		{"cluster":"nowhere"},
		{"cluster":"first","runtimeFraction":{"defaultValue":{"numerator":0}}},
		{"clusterHeader":"x-to","hostRewriteLiteral":"o","requestHeadersMutations":[{"remove":"x"}]}]}}]}]}`,
		map[string][]string{"up": {main.addr}, "first": {first.addr}, "second": {second.addr}, "third": {third.addr}}, nil)
	resp, body := f.exchange("POST /a HTTP/1.1\r\nHost: h:80\r\nX-To: third\r\nContent-Length: 4\r\n\r\ndata")
	if resp.StatusCode != http.StatusOK || body != "ok" {
		t.Fatalf("%d %q", resp.StatusCode, body)
	}
	for _, tc := range []struct {
		seen <-chan string
		want string
	}{
		{seen, "POST /n/a h:80 x=1 data"},
		{seen1, "POST /n/a h-shadow:80 x=1 data"},
		{seen2, "POST /n/a h:80 x=1 data"},
		{seen3, "POST /n/a o x= data"},
	} {
		if got := <-tc.seen; got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
	f.exchange("GET /b HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := <-seen1; got != "GET /n/b h-shadow x=1 " {
		t.Errorf("got %q", got)
	}
	if len(seen1) != 0 {
		t.Errorf("a mirror with a fraction of zero was sent %q", <-seen1)
	}
}

func TestMirrorOfABodyThatBreaks(t *testing.T) {
	mirrored, seen := recorder(t, ok200)
	main, _ := recorder(t, ok200)
	f := newFixture(t, `{"virtualHosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},
		"route":{"cluster":"up","timeout":"0s","requestMirrorPolicies":[{"cluster":"m"}]}}]}]}`,
		map[string][]string{"up": {main.addr}, "m": {mirrored.addr}}, nil)
	c := f.connect()
	_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf")
	must(t, err)
	_ = c.(*net.TCPConn).CloseWrite()
	if got := <-seen; !strings.HasSuffix(got, " broken") {
		t.Errorf("the copy is %q", got)
	}
}

func TestSinkThatFallsBehindIsGivenUp(t *testing.T) {
	s := newSink()
	tee := &teeBody{ReadCloser: io.NopCloser(strings.NewReader(strings.Repeat("x", maxReplay+1))), sinks: []*sink{s}}
	if n, err := io.Copy(io.Discard, tee); n != maxReplay+1 || err != nil {
		t.Errorf("the request itself: %d bytes, %v", n, err)
	}
	if _, err := io.ReadAll(s); err == nil {
		t.Error("the copy is taken for whole")
	}
}
