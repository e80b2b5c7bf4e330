package hcm

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/http1"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// connect carries out a CONNECT request: it ends here, and its payload goes to the upstream as raw bytes, or it goes on
// to an upstream that is a proxy itself.
func (s *Stream) connect(f *forwardAction) {
	s.attempts, s.upStart = 1, time.Now()
	host, err := s.cluster.Pick(s.wanted())
	if err != nil {
		s.answer(&reply{
			status: http.StatusServiceUnavailable, flags: accesslog.NoHealthyUpstream, details: "no_healthy_upstream",
			body: "no healthy upstream",
		})
		return
	}
	s.host = host
	host.Active.Add(1)
	host.Requests.Add(1)
	defer host.Active.Add(-1)
	opts := cluster.ConnectOptions{ALPN: s.alpn, SNI: stripPort(s.authority), Client: s.remote, Local: s.conn.Local}
	var up io.ReadWriteCloser
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}}
	if f.terminates {
		opts.ALPN = nil
		up, err = s.cluster.Connect(s.ctx, host, opts)
		if err != nil {
			err = &upstream.Error{Stage: upstream.Connecting, Err: err}
		}
	} else {
		s.trace = &upstream.Trace{}
		up, resp, err = Tunnel(upstream.WithTrace(s.ctx, s.trace), s.cluster, host, opts, s.req.ProtoMajor, &http.Request{ //nolint:bodyclose // relay and answer end what came
			Method: http.MethodConnect, Host: s.authority, Header: s.req.Header,
		})
	}
	if err != nil {
		host.Errors.Add(1)
		var ue *upstream.Error
		if !errors.As(err, &ue) {
			ue = &upstream.Error{Stage: upstream.BeforeResponse, Err: err}
		}
		s.answer(s.failed(ue))
		return
	}
	if c := resp.StatusCode / 100; c >= 1 && c <= 5 {
		s.cluster.Stats.Status[c].Inc()
	}
	if up == nil { // refused
		s.deliver(resp)
		return
	}
	host.Success.Add(1)
	s.details = "via_upstream"
	for n := range resp.Header {
		if upstream.IsHop(n) {
			delete(resp.Header, n)
		}
	}
	s.join(up, resp.StatusCode, resp.Header)
	s.cluster.Stats.Success.Inc()
}

// Tunnel asks host for a byte stream by req, a CONNECT or POST without body. The stream is nil where the answer is not
// 2xx; the response's body has to be closed then. major is the HTTP version of the client.
func Tunnel(ctx context.Context, c *cluster.Cluster, host *cluster.Endpoint, o cluster.ConnectOptions, major int,
	req *http.Request,
) (io.ReadWriteCloser, *http.Response, error) {
	if req.Method == http.MethodConnect && c.ProtocolFor(major) == cluster.HTTP1 {
		return tunnelH1(ctx, c, host, o, req)
	}
	pr, pw := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	req.Body, req.ContentLength = pr, -1
	if req.URL == nil {
		req.URL = &url.URL{Scheme: "http", Host: req.Host}
	}
	resp, err := c.RoundTrip(host, req.WithContext(ctx), major, o)
	if err != nil {
		cancel()
		_ = pr.Close()
		return nil, nil, err
	}
	if resp.StatusCode/100 != 2 {
		_ = pw.Close()
		resp.Body = &bodyWithCancel{resp.Body, cancel}
		return nil, resp, nil
	}
	return &streamTunnel{resp.Body, pw, cancel}, resp, nil
}

type bodyWithCancel struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *bodyWithCancel) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// streamTunnel is a tunnel whose directions are the bodies of a request and its response.
type streamTunnel struct {
	io.ReadCloser
	w      *io.PipeWriter
	cancel context.CancelFunc
}

func (t *streamTunnel) Write(p []byte) (int, error) { return t.w.Write(p) }

// CloseWrite ends the request's body.
func (t *streamTunnel) CloseWrite() error { return t.w.Close() }

func (t *streamTunnel) Close() error {
	_ = t.w.Close()
	t.cancel()
	return t.ReadCloser.Close()
}

// tunnelH1 opens a connection of its own, which is the tunnel once the upstream has agreed.
func tunnelH1(ctx context.Context, c *cluster.Cluster, host *cluster.Endpoint, o cluster.ConnectOptions, req *http.Request) (
	io.ReadWriteCloser, *http.Response, error,
) {
	nc, err := c.Connect(ctx, host, o)
	if err != nil {
		return nil, nil, &upstream.Error{Stage: upstream.Connecting, Err: err}
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	bw := bufio.NewWriter(nc)
	_, _ = bw.WriteString("CONNECT " + req.Host + " HTTP/1.1\r\nhost: " + req.Host + "\r\n")
	for name, values := range req.Header {
		http1.WriteField(bw, name, values)
	}
	_, _ = bw.WriteString("\r\n")
	br := bufio.NewReader(nc)
	var resp *http.Response
	if err = bw.Flush(); err == nil {
		resp, err = http1.ReadResponse(br, req, 96<<10)
	}
	if err != nil || !stop() {
		_ = nc.Close()
		return nil, nil, &upstream.Error{Stage: upstream.BeforeResponse, Err: errors.Join(err, context.Cause(ctx))}
	}
	if resp.StatusCode/100 != 2 {
		resp.Body = &bodyWithCancel{resp.Body, func() { _ = nc.Close() }}
		return nil, resp, nil
	}
	return &connTunnel{nc, br}, resp, nil
}

// connTunnel is a tunnel that is a connection, of which a part may be read already.
type connTunnel struct {
	net.Conn
	br *bufio.Reader
}

func (t *connTunnel) Read(p []byte) (int, error) { return t.br.Read(p) }

// CloseWrite ends one direction.
func (t *connTunnel) CloseWrite() error {
	if cw, ok := t.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}
