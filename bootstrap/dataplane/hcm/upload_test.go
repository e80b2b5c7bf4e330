package hcm

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// fragile is a fixture whose upstream is ejected at its first failure, and asked again where it fails.
func fragile(t *testing.T) (*fixture, *backend) {
	t.Helper()
	b := newBackend(t, func(c net.Conn, br *bufio.Reader, req *http.Request) bool {
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return false
		}
		return reply200("")(c, br, &http.Request{Body: http.NoBody})
	})
	routes := strings.Replace(simpleRoutes, `"timeout":"0s"`, `"timeout":"0s","retryPolicy":{"retryOn":"5xx,reset,connect-failure","numRetries":2}`, 1)
	f := newFixture(t, strings.Replace(routes, `"cluster":"up"`, `"cluster":"fragile"`, 1), map[string][]string{"up": {b.addr}}, func(p *hcmv3.HttpConnectionManager) {
		p.RequestTimeout = durationpb.New(300 * time.Millisecond)
	})
	p := proto.CloneOf(f.env.Clusters.Get("up").Proto)
	p.Name = "fragile"
	p.OutlierDetection = &clusterv3.OutlierDetection{
		Consecutive_5Xx: wrapperspb.UInt32(1), EnforcingConsecutive_5Xx: wrapperspb.UInt32(100), MaxEjectionPercent: wrapperspb.UInt32(100),
	}
	must(t, f.env.Clusters.AddStatic(p))
	return f, b
}

// A body that the client does not send as it should is no fault of the upstream: it is not ejected for it, no other host
// is tried, and the log blames the client.
func TestUploadsThatFail(t *testing.T) {
	f, b := fragile(t)
	const chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
	for name, tc := range map[string]struct {
		send           string
		status         int // 0 where the client goes away
		flags, details string
	}{
		"gone in a body with a length": {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello", 0, "DC", "downstream_remote_disconnect"},
		"gone in chunks":               {chunked, 0, "DC", "downstream_remote_disconnect"},
		"gone in a chunk":              {chunked + "5\r\nhel", 0, "DC", "downstream_remote_disconnect"},
		"malformed chunk":              {chunked + "xyz\r\n", 400, "DPE", "http1.codec_error"},
		"malformed trailer":            {chunked + "0\r\nContent-Length: 5\r\n\r\n", 400, "DPE", "http1.codec_error"},
		"too slow":                     {chunked, 408, "-", "request_overall_timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			f.t = t
			f.mu.Lock()
			f.logs = nil
			f.mu.Unlock()
			path := "/" + strings.ReplaceAll(name, " ", "-")
			attempts := func() (n int) {
				for _, r := range b.requests() {
					if strings.Contains(r, path+" ") {
						n++
					}
				}
				return n
			}
			c := f.connect()
			_, err := io.WriteString(c, strings.Replace(tc.send, "/", path, 1))
			must(t, err)
			if tc.status == 0 {
				for attempts() == 0 {
					time.Sleep(time.Millisecond)
				}
				must(t, c.(*net.TCPConn).CloseWrite())
				_, _ = io.Copy(io.Discard, c)
			} else {
				br := bufio.NewReader(c)
				resp, _ := readResponse(t, br, "POST")
				if resp.StatusCode != tc.status || !resp.Close {
					t.Errorf("status %d, close %v", resp.StatusCode, resp.Close)
				}
				if rest, err := io.ReadAll(br); len(rest) > 0 || err != nil {
					t.Errorf("after the response: %q %v", rest, err)
				}
			}
			if e := f.last(); e.Flags.String() != tc.flags || e.ResponseCode != tc.status || e.ResponseCodeDetails != tc.details {
				t.Errorf("log: %s %d %s", e.Flags, e.ResponseCode, e.ResponseCodeDetails)
			}
			if n := attempts(); n > 1 {
				t.Errorf("%d attempts", n)
			}
			if f.env.Clusters.Get("fragile").Endpoints()[0].Ejected() {
				t.Error("the upstream is ejected")
			}
		})
	}
	f.t = t
	if resp, _ := f.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok"); resp.StatusCode != http.StatusOK {
		t.Errorf("a request after that: %d", resp.StatusCode)
	}
}

func TestUploadsThatFailOverHTTP2(t *testing.T) {
	f, b := fragile(t)
	c := f.connect()
	_, err := io.WriteString(c, http2.ClientPreface)
	must(t, err)
	fr := http2.NewFramer(c, c)
	must(t, fr.WriteSettings())
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/"}, {":authority", "a"}} {
		must(t, enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}))
	}
	must(t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true}))
	must(t, fr.WriteData(1, false, []byte("hello")))
	for len(b.requests()) == 0 {
		time.Sleep(time.Millisecond)
	}
	must(t, fr.WriteRSTStream(1, http2.ErrCodeCancel))
	for end := time.Now().Add(5 * time.Second); f.last().Path == "" && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if e := f.last(); e.Flags.String() != "DC" || e.ResponseCode != 0 {
		t.Errorf("log: %s %d %s", e.Flags, e.ResponseCode, e.ResponseCodeDetails)
	}
	if f.env.Clusters.Get("fragile").Endpoints()[0].Ejected() {
		t.Error("the upstream is ejected")
	}
}

// Nor is it the upstream's fault when gRPC-Web's text is no text.
func TestUploadsOfBadText(t *testing.T) {
	f, b := fragile(t)
	g := newFixture(t, strings.Replace(simpleRoutes, `"cluster":"up"`, `"cluster":"fragile"`, 1), nil, withFilter(t, `grpc_web.v3.GrpcWeb"`))
	g.env.Clusters, g.m.env.Clusters = f.env.Clusters, f.env.Clusters
	for _, text := range []string{"AAAA!!!!", "AAAAB"} {
		resp, _ := g.exchange("POST /s/m HTTP/1.1\r\nHost: h\r\nContent-Type: application/grpc-web-text\r\nContent-Length: " + itoa(len(text)) + "\r\n\r\n" + text)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Grpc-Status") != "13" || !strings.Contains(resp.Header.Get("Grpc-Message"), "invalid base64") {
			t.Errorf("%q: %d %v", text, resp.StatusCode, resp.Header)
		}
		if d := g.last().ResponseCodeDetails; d != "grpc_base_64_decode_failed" {
			t.Errorf("%q: %s", text, d)
		}
	}
	if n := len(b.requests()); n > 2 {
		t.Errorf("%d attempts", n)
	}
	if f.env.Clusters.Get("fragile").Endpoints()[0].Ejected() {
		t.Error("the upstream is ejected")
	}
}

// A copy of a request whose body breaks off is no failure of who gets the copy.
func TestMirrorsOfUploadsThatFail(t *testing.T) {
	f, b := fragile(t)
	sink := newBackend(t, func(_ net.Conn, _ *bufio.Reader, req *http.Request) bool {
		_, err := io.Copy(io.Discard, req.Body)
		return err == nil
	})
	p := proto.CloneOf(f.env.Clusters.Get("fragile").Proto)
	p.Name = "mirror"
	ap := mustTCP(t, sink.addr)
	p.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress().PortSpecifier = &corev3.SocketAddress_PortValue{PortValue: uint32(ap.Port)}
	must(t, f.env.Clusters.AddStatic(p))
	g := newFixture(t, strings.Replace(simpleRoutes, `"cluster":"up"`, `"cluster":"fragile","requestMirrorPolicies":[{"cluster":"mirror"}]`, 1), nil, nil)
	g.env.Clusters, g.m.env.Clusters = f.env.Clusters, f.env.Clusters
	c := g.connect()
	_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
	must(t, err)
	for len(b.requests()) == 0 || len(sink.requests()) == 0 {
		time.Sleep(time.Millisecond)
	}
	must(t, c.(*net.TCPConn).CloseWrite())
	_, _ = io.Copy(io.Discard, c)
	host := f.env.Clusters.Get("mirror").Endpoints()[0]
	for end := time.Now().Add(5 * time.Second); host.Active.Load() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if host.Ejected() {
		t.Error("the mirror is ejected")
	}
}
