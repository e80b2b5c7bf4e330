package tlsctx

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

// Client originates TLS for one transport socket of one cluster.
type Client struct {
	common *common
	sni    string

	mu    sync.Mutex
	from  []*Secret
	cache tls.ClientSessionCache
	until time.Time // a certificate that cached sessions rest on ends then
}

// Options vary one handshake.
type Options struct {
	ALPN []string // overrides the configured protocols when not empty
	SNI  string   // used when the context names none (auto_sni)
	SAN  string   // when set, some SAN must match this host name (auto_san_validation)
}

// CompileUpstream translates c. Fields that are not honoured are errors.
func CompileUpstream(c *tlsv3.UpstreamTlsContext, secrets Secrets) (*Client, error) {
	if err := fields.Check(c, "common_tls_context sni max_session_keys"); err != nil {
		return nil, err
	}
	cc, err := compileCommon(c.GetCommonTlsContext(), secrets)
	if err != nil {
		return nil, err
	}
	return &Client{common: cc, sni: c.GetSni()}, nil
}

// Refs lists the secrets that the client needs.
func (c *Client) Refs() []*Ref { return c.common.refs() }

// SNI returns the configured server name.
func (c *Client) SNI() string { return c.sni }

// Handshake takes the client's side on conn. On error conn is left open.
func (c *Client) Handshake(ctx context.Context, conn net.Conn, o Options) (*tls.Conn, error) {
	c.common.await(ctx)
	certs, err := c.common.certificates()
	if err != nil {
		return nil, err
	}
	if c.common.roots != nil && c.common.roots.Load() == nil {
		return nil, fmt.Errorf("validation context %q: %w", c.common.roots.Key.Name, ErrNoSecret)
	}
	sni := c.sni
	if sni == "" {
		sni = o.SNI
	}
	var extra match.String
	if o.SAN != "" {
		extra = func(san string) bool { return hostMatches(san, o.SAN) }
	}
	cfg := &tls.Config{
		ServerName: sni,
		MinVersion: c.common.min,
		// The chain and the names are checked in VerifyConnection by the context's own rules.
		InsecureSkipVerify: true, //nolint:gosec // see above
		MaxVersion:         c.common.max,
		CipherSuites:       c.common.ciphers,
		CurvePreferences:   c.common.curves,
		NextProtos:         c.common.alpn,
		ClientSessionCache: c.sessions(),
		VerifyConnection: func(state tls.ConnectionState) error {
			err := c.common.verifyPeer(state, extra)
			if err == nil && len(state.PeerCertificates) > 0 {
				c.restsOn(state.PeerCertificates[0].NotAfter)
			}
			return err
		},
	}
	if len(certs) > 0 {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs[0], nil }
	}
	if len(o.ALPN) > 0 {
		cfg.NextProtos = o.ALPN
	}
	tc := tls.Client(conn, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return tc, nil
}

// sessions returns a session cache that belongs to the current secrets: a resumed session carries the old identity.
func (c *Client) sessions() tls.ClientSessionCache {
	now := make([]*Secret, 0, 2)
	for _, r := range c.common.refs() {
		now = append(now, r.Load())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cache == nil || !slices.Equal(c.from, now) || !c.until.IsZero() && time.Now().After(c.until) {
		c.from, c.cache, c.until = now, tls.NewLRUClientSessionCache(64), time.Time{}
	}
	return c.cache
}

// restsOn notes when the certificate of a server ends: its sessions are of no use any more, as its identity is checked
// whenever one is resumed.
func (c *Client) restsOn(notAfter time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until.IsZero() || notAfter.Before(c.until) {
		c.until = notAfter
	}
}

// hostMatches reports whether a DNS SAN (which may start with "*.") or an exact IP or URI covers host.
func hostMatches(san, host string) bool {
	if strings.EqualFold(san, host) {
		return true
	}
	rest, ok := strings.CutPrefix(san, "*.")
	if !ok {
		return false
	}
	_, parent, ok := strings.Cut(host, ".")
	return ok && strings.EqualFold(rest, parent)
}

// Leaf returns the client's current certificate, parsed, or nil.
func (c *Client) Leaf() *x509.Certificate { return c.common.leaf() }
