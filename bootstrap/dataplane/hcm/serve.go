package hcm

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"golang.org/x/net/http2"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

var _ network.Terminal = (*Manager)(nil)

// Busy reports whether requests are being served or their answers written.
func (m *Manager) Busy() bool { return m.serving.Load() > 0 }

// Serve implements network.Terminal: it finds out the HTTP version and serves requests until the connection ends.
func (m *Manager) Serve(ctx context.Context, c *network.Conn) {
	ctx, cancel := context.WithCancel(withConn(ctx, c))
	defer cancel()
	defer m.limitAge(ctx, c)()
	defer m.stats.connected(c)()
	if c.TLS != nil && c.TLS.NegotiatedProtocol == "h2" || m.codec == hcmv3.HttpConnectionManager_HTTP2 {
		m.serveH2(ctx, c, c.Conn)
		return
	}
	br := bufio.NewReaderSize(c.Conn, readBuffer)
	if m.codec == hcmv3.HttpConnectionManager_AUTO {
		_ = c.SetReadDeadline(deadline(m.idle))
		first, err := br.Peek(1)
		if err != nil {
			return
		}
		_ = c.SetReadDeadline(time.Time{})
		// No HTTP/1 method starts like the preface of HTTP/2 and goes on like it.
		if first[0] == 'P' {
			if head, _ := br.Peek(4); string(head) == "PRI " {
				m.serveH2(ctx, c, &bufferedConn{Conn: c.Conn, br: br})
				return
			}
		}
	}
	m.stats.http1.Inc()
	m.serveH1(ctx, c, br)
}

// readBuffer holds an ordinary request's head. Every HTTP/1 connection has one, idle or not; bodies pass it by.
const readBuffer = 4 << 10

func deadline(d time.Duration) time.Time {
	if d <= 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

// bufferedConn reads through a buffer that has bytes already.
type bufferedConn struct {
	net.Conn
	br *bufio.Reader
}

func (b *bufferedConn) Read(p []byte) (int, error) { return b.br.Read(p) }

func (m *Manager) serveH2(ctx context.Context, c *network.Conn, nc net.Conn) {
	m.stats.http2.Inc()
	if c.TLS == nil {
		// The server would read TLS state off a *tls.Conn; what is beneath is of no concern here.
		nc = struct{ net.Conn }{nc}
	}
	base := &http.Server{Handler: m.server, ReadHeaderTimeout: m.headersTimeout, MaxHeaderBytes: m.maxHeaderBytes}
	h2 := &http2.Server{
		MaxConcurrentStreams: m.h2.streams, MaxUploadBufferPerStream: m.h2.streamWindow,
		MaxUploadBufferPerConnection: m.h2.window, IdleTimeout: m.idle, MaxReadFrameSize: 64 << 10,
	}
	if h2.MaxConcurrentStreams == 0 {
		h2.MaxConcurrentStreams = 1024
	}
	// ConfigureServer ties GOAWAY on drain to base.Shutdown.
	if err := http2.ConfigureServer(base, h2); err != nil {
		m.env.Log.Error("http2", "err", err)
		return
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-done:
		case <-c.Draining:
			sctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_ = base.Shutdown(sctx)
		}
	}()
	h2.ServeConn(nc, &http2.ServeConnOpts{Context: ctx, BaseConfig: base, Handler: m.server})
}

// discard drops what is left of a request body, up to a limit; false means that there is more.
func discard(r io.Reader, limit int64) bool {
	n, err := io.CopyN(io.Discard, r, limit+1)
	return errors.Is(err, io.EOF) && n <= limit
}
