package extauthz

import (
	"crypto/x509"
	"net/http"
	"net/netip"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

// Connection describes a connection to the service.
func (s *Settings) Connection(c *network.Conn, look match.Lookup) *authv3.CheckRequest {
	a := &authv3.AttributeContext{
		Source:      &authv3.AttributeContext_Peer{Address: address(c.Remote)},
		Destination: &authv3.AttributeContext_Peer{Address: address(c.Local)},
	}
	if c.TLS != nil {
		if cert := c.PeerCertificate(); cert != nil {
			a.Source.Principal = principal(c.PeerURIs(), c.PeerDNS(), c.PeerSubject())
			if s.PeerCertificate {
				a.Source.Certificate = network.EscapedPEM(cert)
			}
		}
		if own := c.LocalCertificate(); own != nil {
			a.Destination.Principal = certPrincipal(own)
		}
	}
	if s.TLSSession && c.ServerSNI != "" {
		a.TlsSession = &authv3.AttributeContext_TLSSession{Sni: c.ServerSNI}
	}
	a.MetadataContext = s.metadata(look)
	return &authv3.CheckRequest{Attributes: a}
}

func (s *Settings) metadata(look match.Lookup) *corev3.Metadata {
	out := &corev3.Metadata{}
	for _, name := range s.Namespaces {
		v, ok := look(name, nil)
		if !ok {
			continue
		}
		m, ok := v.(map[string]any)
		if !ok {
			continue
		}
		st, err := structpb.NewStruct(m)
		if err != nil {
			continue
		}
		if out.FilterMetadata == nil {
			out.FilterMetadata = map[string]*structpb.Struct{}
		}
		out.FilterMetadata[name] = st
	}
	return out
}

func address(a netip.AddrPort) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       a.Addr().String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())},
	}}}
}

func principal(uris, dns []string, subject string) string {
	switch {
	case len(uris) > 0:
		return uris[0]
	case len(dns) > 0:
		return dns[0]
	}
	return subject
}

func certPrincipal(c *x509.Certificate) string {
	var uris []string
	for _, u := range c.URIs {
		uris = append(uris, u.String())
	}
	return principal(uris, c.DNSNames, c.Subject.String())
}

// HTTP is what a request adds to what its connection says.
type HTTP struct {
	ID, Method, Path, Host, Scheme, Protocol string
	Header                                   http.Header
	Size                                     int64 // -1 when it is not known
	Start                                    time.Time
	Remote                                   netip.AddrPort // the client, after x-forwarded-for
	Body                                     []byte
	Partial                                  bool // Body is not all of it
	Extensions                               map[string]string
}

// Request describes a request to the service.
func (s *Settings) Request(c *network.Conn, h HTTP, body *Body, look match.Lookup) *authv3.CheckRequest {
	req := s.Connection(c, look)
	a := req.GetAttributes()
	a.Source.Address = address(h.Remote)
	a.ContextExtensions = h.Extensions
	out := &authv3.AttributeContext_HttpRequest{
		Id: h.ID, Method: h.Method, Path: h.Path, Host: h.Host, Scheme: h.Scheme, Protocol: h.Protocol, Size: h.Size,
		Headers: make(map[string]string, len(h.Header)+5),
	}
	put := func(name, v string) {
		if s.keep == nil || s.keep(name) {
			out.Headers[name] = strings.ToValidUTF8(v, "!")
		}
	}
	put(":method", h.Method)
	put(":path", h.Path)
	put(":authority", h.Host)
	put(":scheme", h.Scheme)
	for name, values := range h.Header {
		put(strings.ToLower(name), strings.Join(values, ","))
	}
	if body != nil {
		out.Headers["x-envoy-auth-partial-body"] = map[bool]string{true: "true", false: "false"}[h.Partial]
		if body.AsBytes {
			out.RawBody = h.Body
		} else {
			out.Body = strings.ToValidUTF8(string(h.Body), "!")
		}
	}
	a.Request = &authv3.AttributeContext_Request{Time: timestamppb.New(h.Start), Http: out}
	return req
}
