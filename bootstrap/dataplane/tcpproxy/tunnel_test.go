package tcpproxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/hcm"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/stats"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// httpProxy is a forward proxy that greets with what it was asked and then echoes.
func httpProxy(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Host, "bad") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		path := r.URL.Path
		if r.Method == http.MethodConnect {
			path = "-"
		}
		greeting := strings.Join([]string{r.Proto, r.Method, r.Host, path, r.Header.Get("X-From"), ""}, " ")
		if hj, ok := w.(http.Hijacker); ok && r.Method == http.MethodConnect {
			c, bw, err := hj.Hijack()
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
			_, _ = bw.WriteString("HTTP/1.1 200 OK\r\n\r\n" + greeting)
			_ = bw.Flush()
			_, _ = io.Copy(c, bw)
			return
		}
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, greeting)
		_ = rc.Flush()
		buf := make([]byte, 1024)
		for {
			n, err := r.Body.Read(buf)
			if n > 0 {
				_, _ = w.Write(buf[:n])
				_ = rc.Flush()
			}
			if err != nil {
				return
			}
		}
	})
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	must(t, http2.ConfigureServer(srv, nil))
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	srv.Protocols = p
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ln) })
	t.Cleanup(func() { _ = srv.Close(); wg.Wait() })
	return ln.Addr().String()
}

type logs chan *accesslog.Entry

func (l logs) Log(e *accesslog.Entry) { l <- e }

// through sends bytes through a proxy with the given tunneling_config and returns what comes back, and the log entry.
func through(t *testing.T, protocol, tunneling, send string) (string, *accesslog.Entry) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cm := cluster.NewManager(ctx, tlsctx.NewStore(), stats.New(), net.DefaultResolver)
	t.Cleanup(func() { cm.Close(); cancel() })
	host, port, err := net.SplitHostPort(httpProxy(t))
	must(t, err)
	c := &clusterv3.Cluster{}
	must(t, protojson.Unmarshal([]byte(`{"name":"proxy","type":"STATIC","connectTimeout":"5s","loadAssignment":{"clusterName":"proxy","endpoints":[{"lbEndpoints":[
		{"endpoint":{"address":{"socketAddress":{"address":"`+host+`","portValue":`+port+`}}}}]}]},"typedExtensionProtocolOptions":{
		"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
		"explicitHttpConfig":{"`+protocol+`":{}}}}}`), c))
	must(t, cm.AddStatic(c))
	p := &tcpv3.TcpProxy{}
	must(t, protojson.Unmarshal([]byte(`{"statPrefix":"x","cluster":"proxy","tunnelingConfig":`+tunneling+`}`), p))
	log := make(logs, 1)
	tp, err := Compile(p, cm, &peer.Info{}, []hcm.Logger{log})
	must(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = ln.Close() }()
	cli, err := net.Dial("tcp", ln.Addr().String())
	must(t, err)
	defer func() { _ = cli.Close() }()
	srv, err := ln.Accept()
	must(t, err)
	go func() {
		conn := network.New(srv)
		conn.ServerSNI = "sni.example"
		tp.Serve(ctx, conn)
		conn.Finish()
	}()
	_ = cli.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = io.WriteString(cli, send)
	must(t, err)
	_ = cli.(*net.TCPConn).CloseWrite() // a refusal may have come
	b, _ := io.ReadAll(cli)             // a refusal may come as a reset
	return string(b), <-log
}

func TestTunnels(t *testing.T) {
	for _, tc := range []struct{ name, protocol, config, want string }{
		{"CONNECT over HTTP/1.1", "httpProtocolOptions", `{"hostname":"out.example:443"}`, "HTTP/1.1 CONNECT out.example:443 -  bytes"},
		{"POST over HTTP/1.1", "httpProtocolOptions", `{"hostname":"out.example:443","usePost":true}`, "HTTP/1.1 POST out.example:443 /  bytes"},
		{"CONNECT over HTTP/2", "http2ProtocolOptions", `{"hostname":"out.example:443"}`, "HTTP/2.0 CONNECT out.example:443 -  bytes"},
		{"POST over HTTP/2", "http2ProtocolOptions", `{"hostname":"out.example:443","usePost":true,"postPath":"/t"}`, "HTTP/2.0 POST out.example:443 /t  bytes"},
		{
			"formats", "httpProtocolOptions", `{"hostname":"%REQUESTED_SERVER_NAME%:443","headersToAdd":[{"header":{"key":"x-from","value":"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}]}`,
			"HTTP/1.1 CONNECT sni.example:443 - 127.0.0.1 bytes",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, e := through(t, tc.protocol, tc.config, "bytes")
			if got != tc.want || e.BytesReceived != 5 || e.Flags != 0 || !e.Upstream.RemoteAddress.IsValid() && tc.protocol != "httpProtocolOptions" {
				t.Errorf("got %q, log %+v", got, e)
			}
		})
	}
	got, e := through(t, "httpProtocolOptions", `{"hostname":"bad.example:443"}`, "bytes")
	if got != "" || e.Flags != accesslog.UpstreamConnectionFailure || e.Upstream.TransportFailureReason != "the proxy answered 403" {
		t.Errorf("a proxy that refuses: %q, log %+v", got, e)
	}
}

func TestTunnelFieldsThatAreNotSupported(t *testing.T) {
	for js, want := range map[string]string{
		`{"hostname":"a","propagateResponseHeaders":true}`:             "TunnelingConfig.propagate_response_headers",
		`{"hostname":"a","requestIdHeader":"x"}`:                       "TunnelingConfig.request_id_header",
		`{"hostname":""}`:                                              "hostname must not be empty",
		`{"hostname":"a","postPath":"/"}`:                              "post_path needs use_post",
		`{"hostname":"a","headersToAdd":[{"header":{"key":":path"}}]}`: "may not be set",
	} {
		p := &tcpv3.TcpProxy_TunnelingConfig{}
		must(t, protojson.Unmarshal([]byte(js), p))
		if _, err := compileTunnel(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", js, err, want)
		}
	}
}
