package tlsctx

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// Server terminates TLS for one filter chain.
type Server struct {
	common  *common
	require bool
	tickets bool
	outer   *tls.Config // lives as long as the server: it owns the session ticket keys

	mu     sync.Mutex
	cached atomic.Pointer[serverConfigs]
}

// serverConfigs are the crypto/tls configurations built from one set of secrets.
type serverConfigs struct {
	from   []*Secret
	alpn   *tls.Config // offers the configured protocols
	silent *tls.Config // ignores the client's ALPN, as BoringSSL does where nothing overlaps
}

// CompileDownstream translates c. Fields that are not honoured are errors.
func CompileDownstream(c *tlsv3.DownstreamTlsContext, secrets Secrets) (*Server, error) {
	const known = "common_tls_context require_client_certificate disable_stateless_session_resumption"
	if err := fields.Check(c, known); err != nil {
		return nil, err
	}
	cc, err := compileCommon(c.GetCommonTlsContext(), secrets)
	if err != nil {
		return nil, err
	}
	if len(cc.certs)+len(cc.inline) == 0 {
		return nil, fmt.Errorf("downstream TLS context has no certificate")
	}
	s := &Server{
		common:  cc,
		require: c.GetRequireClientCertificate().GetValue(),
		tickets: !c.GetDisableStatelessSessionResumption(),
	}
	s.outer = &tls.Config{
		MinVersion: s.common.min,
		MaxVersion: s.common.max,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			cfgs, err := s.configs()
			if err != nil {
				return nil, err
			}
			for _, p := range hello.SupportedProtos {
				if slices.Contains(s.common.alpn, p) {
					return cfgs.alpn, nil
				}
			}
			return cfgs.silent, nil
		},
	}
	return s, nil
}

// Refs lists the secrets that the server needs.
func (s *Server) Refs() []*Ref { return s.common.refs() }

// Waits lists what the server needs before it can take connections.
func (s *Server) Waits() []Wait { return s.common.waits }

// Handshake takes the server's side on conn. The result's ConnectionState is complete. On error conn is left open.
func (s *Server) Handshake(ctx context.Context, conn net.Conn) (*tls.Conn, error) {
	tc := tls.Server(conn, s.outer)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return tc, nil
}

// configs returns configurations for the current secrets, built anew after a rotation.
func (s *Server) configs() (*serverConfigs, error) {
	now := s.current()
	if c := s.cached.Load(); c != nil && slices.Equal(c.from, now) {
		return c, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cached.Load(); c != nil && slices.Equal(c.from, now) {
		return c, nil
	}
	certs, err := s.common.certificates()
	if err != nil {
		return nil, err
	}
	base := &tls.Config{
		Certificates:           certs,
		MinVersion:             s.common.min,
		MaxVersion:             s.common.max,
		CipherSuites:           s.common.ciphers,
		CurvePreferences:       s.common.curves,
		ClientCAs:              s.common.clientCAs(),
		SessionTicketsDisabled: !s.tickets,
		ClientAuth:             s.clientAuth(),
		VerifyConnection: func(state tls.ConnectionState) error {
			return s.common.verifyPeer(state, nil)
		},
	}
	out := &serverConfigs{from: now, alpn: base, silent: base.Clone()}
	out.alpn.NextProtos = s.common.alpn
	s.cached.Store(out)
	return out, nil
}

func (s *Server) clientAuth() tls.ClientAuthType {
	switch {
	case s.require:
		return tls.RequireAnyClientCert
	case s.common.verify:
		return tls.RequestClientCert
	default:
		return tls.NoClientCert
	}
}

func (s *Server) current() []*Secret {
	refs := s.common.refs()
	out := make([]*Secret, len(refs))
	for i, r := range refs {
		out[i] = r.Load()
	}
	return out
}

// Leaf returns the first of the server's current certificates, parsed, or nil.
func (s *Server) Leaf() *x509.Certificate { return s.common.leaf() }
