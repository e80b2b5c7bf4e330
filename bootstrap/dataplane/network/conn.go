// Package network holds what the proxy knows about one downstream connection, and the contract between a listener and
// the filters on that connection.
//
// It knows addresses, TLS state and per-connection facts. It knows no filter and no listener.
package network

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

// Direction is a listener's traffic direction.
type Direction int

// Directions as istiod sets them; gateways use Outbound, static listeners Unspecified.
const (
	Unspecified Direction = iota
	Inbound
	Outbound
)

var lastID atomic.Uint64

// NextID numbers connections, those to upstreams too: a number stands for one connection of the process.
func NextID() uint64 { return lastID.Add(1) }

// Conn is one downstream connection on its way through a filter chain. The embedded net.Conn is what filters read and
// write: plain bytes, after TLS and after anything that was peeked at.
type Conn struct {
	net.Conn
	ID        uint64
	Start     time.Time
	Remote    netip.AddrPort // the peer, after any proxy protocol
	Direct    netip.AddrPort // the peer of the socket
	Local     netip.AddrPort // the destination the client meant: restored when the connection was redirected
	Restored  bool           // Local came from SO_ORIGINAL_DST
	Direction Direction
	Listener  string // name of the listener that owns the filter chain
	Chain     string // name of the filter chain
	ServerSNI string // server name in the ClientHello, in lower case
	Requested []string
	TLS       *tls.ConnectionState
	// Draining is closed when the filter chain is going away: finish what is running, take nothing new.
	Draining <-chan struct{}

	mu       sync.Mutex
	closers  []func()
	meta     map[string]map[string]any
	state    map[string]string
	peer     any
	result   any
	identity identity
	describe sync.Once
	client   string
	ended    string

	Received, Sent atomic.Uint64 // bytes from and to the client, after TLS
}

type identity struct {
	uris, dns []string
	subject   string
	local     *x509.Certificate
	localURIs []string
}

// New wraps nc.
func New(nc net.Conn) *Conn {
	c := &Conn{Conn: nc, ID: NextID(), Start: time.Now()}
	c.Remote = AddrPort(nc.RemoteAddr())
	c.Direct = c.Remote
	c.Local = AddrPort(nc.LocalAddr())
	return c
}

// AddrPort converts a TCP address; anything else gives the zero value.
func AddrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	}
	return netip.AddrPort{}
}

// SetTLS records the state of a finished handshake.
func (c *Conn) SetTLS(state tls.ConnectionState) {
	c.TLS = &state
	if len(state.PeerCertificates) == 0 {
		return
	}
	leaf := state.PeerCertificates[0]
	c.identity.subject, c.identity.dns = leaf.Subject.String(), leaf.DNSNames
	for _, u := range leaf.URIs {
		c.identity.uris = append(c.identity.uris, u.String())
	}
}

// ClientText returns what describe says about the client, which it is asked once.
func (c *Conn) ClientText(describe func() string) string {
	c.describe.Do(func() { c.client = describe() })
	return c.client
}

// PeerCertificate returns the client's verified certificate, or nil.
func (c *Conn) PeerCertificate() *x509.Certificate {
	if c.TLS == nil || len(c.TLS.PeerCertificates) == 0 {
		return nil
	}
	return c.TLS.PeerCertificates[0]
}

// EscapedPEM renders certificates as PEM in the URL encoding that x-forwarded-client-cert and ext_authz use.
func EscapedPEM(certs ...*x509.Certificate) string {
	var all []byte
	for _, c := range certs {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return pemEscaper.Replace(string(all))
}

var pemEscaper = strings.NewReplacer("\n", "%0A", " ", "%20", "+", "%2B", "/", "%2F", "=", "%3D")

// SetLocalCertificate records the certificate that was shown to the client.
func (c *Conn) SetLocalCertificate(cert *x509.Certificate) {
	if cert == nil {
		return
	}
	c.identity.local = cert
	for _, u := range cert.URIs {
		c.identity.localURIs = append(c.identity.localURIs, u.String())
	}
}

// LocalCertificate returns the certificate that was shown to the client, or nil.
func (c *Conn) LocalCertificate() *x509.Certificate { return c.identity.local }

// LocalURIs returns the URI SANs of the certificate that was shown to the client.
func (c *Conn) LocalURIs() []string { return c.identity.localURIs }

// PeerURIs returns the URI SANs of the client's certificate.
func (c *Conn) PeerURIs() []string { return c.identity.uris }

// PeerDNS returns the DNS SANs of the client's certificate.
func (c *Conn) PeerDNS() []string { return c.identity.dns }

// PeerSubject returns the client certificate's subject in RFC 2253 form.
func (c *Conn) PeerSubject() string { return c.identity.subject }

// OnClose registers fn to run when the connection is done, last registered first.
func (c *Conn) OnClose(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closers = append(c.closers, fn)
}

// Finish runs the OnClose functions once and closes the connection.
func (c *Conn) Finish() {
	c.mu.Lock()
	fns := c.closers
	c.closers = nil
	c.mu.Unlock()
	for i := len(fns) - 1; i >= 0; i-- {
		fns[i]()
	}
	_ = c.Close()
}

// SetMetadata sets one value of dynamic metadata.
func (c *Conn) SetMetadata(filter, key string, v any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.meta == nil {
		c.meta = map[string]map[string]any{}
	}
	if c.meta[filter] == nil {
		c.meta[filter] = map[string]any{}
	}
	c.meta[filter][key] = v
}

// Metadata looks up dynamic metadata by path.
func (c *Conn) Metadata(filter string, path []string) (any, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.meta[filter]
	if m == nil {
		return nil, false
	}
	return match.Dig(m, path)
}

// Terminate notes why the proxy ends the connection, for the log.
func (c *Conn) Terminate(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = why
}

// Terminated returns what Terminate noted.
func (c *Conn) Terminated() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// SetFilterState sets one filter state object by key, in its string form.
func (c *Conn) SetFilterState(key, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == nil {
		c.state = map[string]string{}
	}
	c.state[key] = value
}

// FilterState looks up a filter state object.
func (c *Conn) FilterState(key string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.state[key]
	return v, ok
}

// SetPeer stores what metadata exchange learnt about the client.
func (c *Conn) SetPeer(p any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peer = p
}

// Peer returns what SetPeer stored.
func (c *Conn) Peer() any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peer
}

// SetResult stores what the terminal filter has to tell filters that run when the connection ends.
func (c *Conn) SetResult(r any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result = r
}

// Result returns what SetResult stored.
func (c *Conn) Result() any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.result
}

// Filter is a network filter that looks at a connection before the terminal filter gets it.
type Filter interface {
	// OnConnection returns an error to refuse the connection; the text names the reason.
	OnConnection(ctx context.Context, c *Conn) error
}

// Terminal is the last filter of a chain. Serve returns when the connection is done; the caller closes it.
type Terminal interface {
	Serve(ctx context.Context, c *Conn)
}
