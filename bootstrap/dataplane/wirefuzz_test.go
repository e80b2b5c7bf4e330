package dataplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/encoding/protojson"
)

// wire is a proxy with one plain listener in front of two upstreams, HTTP/1 and HTTP/2, which answer with bytes that
// the test chooses.
type wire struct {
	addr   string
	answer atomic.Pointer[[]byte] // of both upstreams
	panics panicCatcher
}

// panicCatcher is told of panics that the proxy or net/http recovered from.
type panicCatcher struct{ seen atomic.Pointer[string] }

func (p *panicCatcher) note(s string)                            { p.seen.CompareAndSwap(nil, &s) }
func (p *panicCatcher) Enabled(context.Context, slog.Level) bool { return true }
func (p *panicCatcher) WithAttrs([]slog.Attr) slog.Handler       { return p }
func (p *panicCatcher) WithGroup(string) slog.Handler            { return p }

func (p *panicCatcher) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "panic") {
		var b strings.Builder
		r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, " %s", a); return true })
		p.note(r.Message + b.String())
	}
	return nil
}

// Write takes what net/http says of panics in handlers.
func (p *panicCatcher) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("panic")) {
		p.note(string(b))
	}
	return len(b), nil
}

const wireJSON = `{"node": {"id": "x"}, "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
 "static_resources": {
  "clusters": [
   {"name": "one", "type": "STATIC", "connect_timeout": "1s", "load_assignment": {"cluster_name": "one", "endpoints": [{"lb_endpoints": [{"endpoint":
    {"address": {"socket_address": {"address": "127.0.0.1", "port_value": %[1]d}}}}]}]}},
   {"name": "two", "type": "STATIC", "connect_timeout": "1s", "load_assignment": {"cluster_name": "two", "endpoints": [{"lb_endpoints": [{"endpoint":
    {"address": {"socket_address": {"address": "127.0.0.1", "port_value": %[1]d}}}}]}]}, "typed_extension_protocol_options": {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
     "explicit_http_config": {"http2_protocol_options": {}}}}}],
  "listeners": [{"name": "l", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
   "listener_filters": [
    {"name": "t", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}},
    {"name": "h", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"}}],
   "filter_chains": [
    {"filter_chain_match": {"transport_protocol": "tls"}, "filters": [{"name": "tcp", "typed_config": {
     "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "x", "cluster": "one"}}]},
    {"filters": [{"name": "hcm", "typed_config": {
    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "x",
    "use_remote_address": true, "normalize_path": true, "merge_slashes": true, "upgrade_configs": [{"upgrade_type": "websocket"}],
    "stream_idle_timeout": "2s", "request_headers_timeout": "2s",
    "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
     {"match": {"prefix": "/one"}, "route": {"cluster": "one", "timeout": "2s", "retry_policy": {"retry_on": "5xx,reset", "num_retries": 1}}},
     {"match": {"prefix": "/two"}, "route": {"cluster": "two", "timeout": "2s", "prefix_rewrite": "/"}},
     {"match": {"safe_regex": {"regex": "/.*x"}}, "redirect": {"https_redirect": true}},
     {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}]}]},
    "http_filters": [
     {"name": "cors", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"}},
     {"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}]}}`

func newWire(f *testing.F) *wire {
	w := &wire{}
	log.SetOutput(&w.panics)
	up, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); w.upstream(up) }()
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(fmt.Appendf(nil, wireJSON, up.Addr().(*net.TCPAddr).Port), b); err != nil {
		f.Fatal(err)
	}
	p, err := New(b, Options{DrainTime: time.Second}, slog.New(&w.panics))
	if err != nil {
		f.Fatal(err)
	}
	if err := p.Start(); err != nil {
		f.Fatal(err)
	}
	a, ok := p.listeners.Bound(netip.MustParseAddrPort("127.0.0.1:0"))
	if !ok {
		f.Fatal("the listener is not bound")
	}
	w.addr = a.String()
	f.Cleanup(func() {
		p.Shutdown()
		_ = up.Close()
		<-served
		log.SetOutput(os.Stderr)
	})
	return w
}

// upstream answers each connection's first bytes with the answer and hangs up.
func (w *wire) upstream(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(2 * time.Second))
			buf := make([]byte, 16<<10)
			if _, err := c.Read(buf); err != nil {
				return
			}
			if a := w.answer.Load(); a != nil {
				_, _ = c.Write(*a)
			}
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c)
		}()
	}
}

// send gives the proxy bytes on a connection of their own and returns what comes back until the proxy hangs up, which
// it must.
func (w *wire) send(t *testing.T, raw []byte) []byte {
	t.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(8 * time.Second))
	go func() {
		_, _ = c.Write(raw)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	out, err := io.ReadAll(c)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		t.Errorf("the connection hangs after %q", out)
	}
	if p := w.panics.seen.Swap(nil); p != nil {
		t.Errorf("panic: %s", *p)
	}
	return out
}

// alive checks that the proxy still serves.
func (w *wire) alive(t *testing.T) {
	t.Helper()
	out := w.send(t, []byte("GET /alive HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
	if !bytes.HasPrefix(out, []byte("HTTP/1.1 200 ")) || !bytes.HasSuffix(out, []byte("ok")) {
		t.Errorf("after that, a plain request gets %q", out)
	}
}

func FuzzDownstreamBytes(f *testing.F) {
	w := newWire(f)
	ok := []byte("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
	w.answer.Store(&ok)
	for _, s := range []string{
		"", "\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /one HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nhello",
		"POST /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
		"POST /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhe",
		"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
		"GET /one HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello",
		"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "GET http://a/b?c#d HTTP/1.1\r\nHost: z\r\n\r\n",
		"GET /%2e%2e//\\x HTTP/1.1\r\nHost: [::1]:80\r\nX-Forwarded-For: 1.2.3.4, ,x\r\nX-Envoy-Peer-Metadata: AAA\r\n\r\n",
		"GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "\x00\x01\x02",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		w.send(t, raw)
		w.alive(t)
	})
}

// frames renders HTTP/2 frames after the client's preface.
func frames(preface bool, write func(*http2.Framer)) []byte {
	var b bytes.Buffer
	if preface {
		b.WriteString(http2.ClientPreface)
	}
	write(http2.NewFramer(&b, nil))
	return b.Bytes()
}

func headers(pairs ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(pairs); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return b.Bytes()
}

func FuzzDownstreamHTTP2(f *testing.F) {
	w := newWire(f)
	ok := []byte("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
	w.answer.Store(&ok)
	request := func(path string, end bool) func(*http2.Framer) {
		return func(fr *http2.Framer) {
			_ = fr.WriteSettings()
			_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: end, EndHeaders: true, BlockFragment: headers(
				":method", "POST", ":scheme", "http", ":authority", "a", ":path", path, "te", "trailers", "content-type", "application/grpc")})
			if !end {
				_ = fr.WriteData(1, false, []byte("\x00\x00\x00\x00\x01x"))
				_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, EndHeaders: true, BlockFragment: headers("x-trailer", "y")})
			}
		}
	}
	f.Add(frames(false, request("/", true)))
	f.Add(frames(false, request("/one", false)))
	f.Add(frames(false, request("/two", false)))
	f.Add(frames(false, func(fr *http2.Framer) {
		request("/one", false)(fr)
		_ = fr.WriteRSTStream(1, http2.ErrCodeCancel)
		_ = fr.WritePing(false, [8]byte{})
		_ = fr.WriteGoAway(0, http2.ErrCodeNo, nil)
	}))
	f.Add(frames(false, func(fr *http2.Framer) {
		_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: headers(":method", "CONNECT", ":authority", "a:1")})
		_ = fr.WriteContinuation(3, true, nil)
		_ = fr.WriteWindowUpdate(0, 1<<31-1)
		_ = fr.WriteWindowUpdate(3, 0)
	}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		w.send(t, append([]byte(http2.ClientPreface), raw...))
		w.alive(t)
	})
}

func FuzzUpstreamBytes(f *testing.F) {
	w := newWire(f)
	for _, s := range []string{
		"", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort", "HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\nx",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: a\r\n\r\n2\r\nhi\r\n0\r\na: b\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz",
		"HTTP/1.1 99 \r\n\r\n", "HTTP/1.1 999 x\r\nset-cookie: \x00\r\n\r\n", "HTTP/1.1 304 x\r\ncontent-length: 5\r\n\r\n", "SSH-2.0-x\r\n",
		"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\nconnection: close, x\r\nx: y\r\n\r\nbody", "HTTP/1.1 503 x\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Add(frames(false, func(fr *http2.Framer) {
		_ = fr.WriteSettings()
		_ = fr.WriteSettingsAck()
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: headers(":status", "200", "content-type", "application/grpc")})
		_ = fr.WriteData(1, false, []byte("hello"))
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: headers("grpc-status", "0")})
	}))
	f.Add(frames(false, func(fr *http2.Framer) {
		_ = fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
		_ = fr.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, []byte("x"))
	}))
	f.Add(frames(false, func(fr *http2.Framer) {
		_ = fr.WriteSettings()
		_ = fr.WriteRSTStream(1, http2.ErrCodeRefusedStream)
		_ = fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true, BlockFragment: headers(":method", "GET")})
	}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		w.answer.Store(&raw)
		for _, path := range []string{"/one", "/two"} {
			w.send(t, []byte("GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"))
		}
		w.send(t, []byte("GET /one HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello"))
		w.alive(t)
	})
}
