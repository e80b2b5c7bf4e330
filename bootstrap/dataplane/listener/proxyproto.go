package listener

import (
	"errors"
	"io"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/proxyproto"
)

// compileProxyProtocol returns the filter that takes the PROXY header off and the client's and
// destination's addresses out of it. A connection without one is closed unless the
// configuration allows it.
func compileProxyProtocol(body *anypb.Any) (func(*inspection) error, error) {
	p := &proxyv3.ProxyProtocol{}
	if err := body.UnmarshalTo(p); err != nil {
		return nil, err
	}
	if err := fields.Check(p, "allow_requests_without_proxy_protocol disallowed_versions"); err != nil {
		return nil, err
	}
	allowed := func(version int) bool {
		v := corev3.ProxyProtocolConfig_V1
		if version == 2 {
			v = corev3.ProxyProtocolConfig_V2
		}
		return !slices.Contains(p.GetDisallowedVersions(), v)
	}
	optional := p.GetAllowRequestsWithoutProxyProtocol()
	return func(i *inspection) error {
		h, n, err := readProxyHeader(i.bytes)
		switch {
		case errors.Is(err, proxyproto.ErrNone) && optional:
			return nil
		case err != nil:
			return err
		case !allowed(h.Version) && optional:
			return nil // its bytes are the application's
		case !allowed(h.Version):
			return errors.New("proxy protocol: the version is not allowed")
		}
		i.bytes.buf = i.bytes.buf[n:]
		if h.Source.IsValid() {
			i.conn.Remote = h.Source
		}
		if h.Destination.IsValid() && h.Destination != i.conn.Local {
			i.conn.Local, i.conn.Restored = h.Destination, true
		}
		return nil
	}, nil
}

func readProxyHeader(b *peeked) (proxyproto.Header, int, error) {
	for {
		h, n, err := proxyproto.Parse(b.buf)
		if !errors.Is(err, proxyproto.ErrShort) || len(b.buf) >= maxPeek {
			return h, n, err
		}
		if err := b.more(); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return h, 0, err
		}
	}
}
