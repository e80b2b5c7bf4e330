package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/proxyproto"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
)

// compileProxySocket is a way of connecting that begins with a PROXY header and goes on as the socket inside it says.
func compileProxySocket(body *anypb.Any, name string, secrets tlsctx.Secrets) (*socket, error) {
	p := &proxyv3.ProxyProtocolUpstreamTransport{}
	if err := body.UnmarshalTo(p); err != nil {
		return nil, err
	}
	if err := fields.Check(p, "config transport_socket"); err != nil {
		return nil, err
	}
	if err := fields.Check(p.GetConfig(), "version"); err != nil {
		return nil, err
	}
	inner, err := compileSocket(p.GetTransportSocket(), name, secrets)
	if err != nil {
		return nil, err
	}
	if inner.proxy != 0 {
		return nil, fields.Unsupported(p, "transport_socket", "a PROXY header inside another")
	}
	out := *inner
	out.proxy = 1
	if p.GetConfig().GetVersion() == corev3.ProxyProtocolConfig_V2 {
		out.proxy = 2
	}
	return &out, nil
}

// announce writes the PROXY header of the client's connection, or where there is none, of this one.
func announce(ctx context.Context, nc net.Conn, version int, o ConnectOptions) error {
	h := proxyproto.Header{Version: version, Source: o.Client, Destination: o.Local}
	if !h.Source.IsValid() || !h.Destination.IsValid() {
		h.Source, h.Destination = addrPort(nc.LocalAddr()), addrPort(nc.RemoteAddr())
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := nc.SetWriteDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := nc.Write(h.Append(nil)); err != nil {
		return fmt.Errorf("write PROXY header: %w", err)
	}
	return nc.SetWriteDeadline(time.Time{})
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
