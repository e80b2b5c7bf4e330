package tcpproxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/hcm"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// tunnel asks an HTTP proxy for the way to a host, by CONNECT or by POST.
type tunnel struct {
	host    text
	method  string
	path    string
	headers []tunnelHeader
}

type tunnelHeader struct {
	name      string
	value     text
	overwrite bool
}

// text may have operators of access log formats in it.
type text struct {
	plain  string
	format *accesslog.Formatter
}

func compileFormatted(s string) (text, error) {
	if !strings.Contains(s, "%") {
		return text{plain: s}, nil
	}
	f, err := accesslog.CompileText(s)
	return text{format: f}, err
}

func (t *text) render(e *accesslog.Entry) string {
	if t.format == nil {
		return t.plain
	}
	return string(t.format.Format(e))
}

func compileTunnel(p *tcpv3.TcpProxy_TunnelingConfig) (*tunnel, error) {
	if p == nil {
		return nil, nil
	}
	if err := fields.Check(p, "hostname use_post headers_to_add post_path"); err != nil {
		return nil, err
	}
	if p.GetHostname() == "" {
		return nil, fmt.Errorf("tunneling_config: hostname must not be empty")
	}
	out := &tunnel{method: http.MethodConnect}
	switch {
	case p.GetUsePost():
		out.method, out.path = http.MethodPost, "/"
		if p.GetPostPath() != "" {
			out.path = p.GetPostPath()
		}
	case p.GetPostPath() != "":
		return nil, fmt.Errorf("tunneling_config: post_path needs use_post")
	}
	var err error
	if out.host, err = compileFormatted(p.GetHostname()); err != nil {
		return nil, err
	}
	for _, o := range p.GetHeadersToAdd() {
		if err := fields.Check(o, "header append_action"); err != nil {
			return nil, err
		}
		name := o.GetHeader().GetKey()
		if strings.HasPrefix(name, ":") || strings.EqualFold(name, "host") {
			return nil, fmt.Errorf("tunneling_config: header %q may not be set", name)
		}
		v, err := compileFormatted(o.GetHeader().GetValue())
		if err != nil {
			return nil, err
		}
		out.headers = append(out.headers, tunnelHeader{
			textproto.CanonicalMIMEHeaderKey(name), v, o.GetAppendAction() != corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD,
		})
	}
	return out, nil
}

func (t *tunnel) request(e *accesslog.Entry) *http.Request {
	req := &http.Request{Method: t.method, Host: t.host.render(e), Header: http.Header{}, RequestURI: t.path}
	req.URL = &url.URL{Scheme: "http", Host: req.Host, Opaque: t.path}
	for i := range t.headers {
		h := &t.headers[i]
		if v := h.value.render(e); h.overwrite {
			req.Header.Set(h.name, v)
		} else {
			req.Header.Add(h.name, v)
		}
	}
	return req
}

// connect opens the way to an endpoint: a connection, or a tunnel through the proxy that it is.
func (p *Proxy) connect(ctx context.Context, cl *cluster.Cluster, host *cluster.Endpoint, c *network.Conn, e *accesslog.Entry) (
	io.ReadWriteCloser, error,
) {
	o := cluster.ConnectOptions{SNI: c.ServerSNI, Client: c.Remote, Local: c.Local}
	if p.tunnel == nil {
		up, err := cl.Connect(ctx, host, o)
		if err != nil {
			return nil, err
		}
		e.Upstream.ConnectionID = network.NextID()
		e.Upstream.LocalAddress, e.Upstream.RemoteAddress = network.AddrPort(up.LocalAddr()), network.AddrPort(up.RemoteAddr())
		return up, nil
	}
	trace := &upstream.Trace{}
	up, resp, err := hcm.Tunnel(upstream.WithTrace(ctx, trace), cl, host, o, 1, p.tunnel.request(e))
	if err != nil {
		return nil, err
	}
	if up == nil {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("the proxy answered %d", resp.StatusCode)
	}
	if trace.Conn != nil {
		e.Upstream.ConnectionID, e.Upstream.Protocol = trace.ID, trace.Protocol
		e.Upstream.LocalAddress, e.Upstream.RemoteAddress = network.AddrPort(trace.Local), network.AddrPort(trace.Remote)
		if tc, ok := trace.Conn.(*tls.Conn); ok {
			st := tc.ConnectionState()
			e.Upstream.TLS = &accesslog.TLS{State: &st}
		}
	}
	return up, nil
}
