package curl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// client makes the connections of one invocation and keeps them for its later URLs.
type client struct {
	call      *applet.Call
	o         *options
	transport *http.Transport
	roots     *x509.CertPool // nil: those of the system
	certs     []tls.Certificate

	mu    sync.Mutex
	conns map[net.Conn]*connInfo
	files map[string]bool // outputs written to so far
	last  *tls.Conn       // the last one shaken hands on
}

// connInfo is what is known of a connection; times are since the dial began.
type connInfo struct {
	began                  time.Time
	lookup, connect, shake time.Duration
	state                  *tls.ConnectionState
	verify                 error // of the peer's certificate, with -k
	heads                  *headRecorder
	used                   bool
}

func newClient(call *applet.Call, o *options) (*client, error) {
	c := &client{call: call, o: o, conns: map[net.Conn]*connInfo{}, files: map[string]bool{}}
	if o.cacert != "" {
		pem, err := os.ReadFile(call.Path(o.cacert))
		if err != nil {
			return nil, failf(codeCACert, "error setting certificate file: %w", err)
		}
		c.roots = x509.NewCertPool()
		if !c.roots.AppendCertsFromPEM(pem) {
			return nil, failf(codeCACert, "no certificate in %s", o.cacert)
		}
	}
	if o.cert != "" {
		key := o.key
		if key == "" {
			key = o.cert
		}
		pair, err := tls.LoadX509KeyPair(call.Path(o.cert), call.Path(key))
		if err != nil {
			return nil, failf(codeCertificate, "could not load client certificate: %w", err)
		}
		c.certs = []tls.Certificate{pair}
	} else if o.key != "" {
		return nil, failf(codeCertificate, "--key needs --cert")
	}
	var p http.Protocols
	p.SetHTTP1(!o.prior)
	p.SetHTTP2(!o.http11)
	p.SetUnencryptedHTTP2(o.prior)
	c.transport = &http.Transport{
		DialContext: c.dial, DialTLSContext: c.dialTLS, Protocols: &p,
		DisableCompression: !o.compressed, MaxResponseHeaderBytes: 1 << 20,
	}
	return c, nil
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// say writes a line of -v.
func (c *client) say(mark byte, format string, args ...any) {
	if c.o.verbose {
		c.mu.Lock()
		defer c.mu.Unlock()
		fmt.Fprintf(c.call.Err, "%c %s\n", mark, fmt.Sprintf(format, args...))
	}
}

// opened tells whether an output has been opened before, and notes that it is now.
func (c *client) opened(name string) bool {
	before := c.files[name]
	c.files[name] = true
	return before
}

func (c *client) remember(conn net.Conn, info *connInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns[conn] = info
}

// recall returns what is known of a connection; never nil.
func (c *client) recall(conn net.Conn) *connInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	if info := c.conns[conn]; info != nil {
		return info
	}
	return &connInfo{}
}

// dial connects in plain text.
func (c *client) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	info := &connInfo{began: time.Now()}
	raw, err := c.connect(ctx, addr, info)
	if err != nil {
		return nil, err
	}
	conn := raw
	if !c.o.prior {
		info.heads = &headRecorder{}
		conn = recordedConn{raw, info.heads}
	}
	c.remember(conn, info)
	return conn, nil
}

// dialTLS connects and shakes hands.
func (c *client) dialTLS(ctx context.Context, _, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	info := &connInfo{began: time.Now()}
	if c.o.connectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.o.connectTimeout)
		defer cancel()
	}
	raw, err := c.connect(ctx, addr, info)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, c.tlsConfig(host, info))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(explainTLS(host, err), ignoreClosed(raw.Close()))
	}
	info.shake = time.Since(info.began)
	state := conn.ConnectionState()
	info.state = &state
	c.describeTLS(info)
	if state.NegotiatedProtocol == "h2" {
		c.remember(conn, info)
		c.mu.Lock()
		c.last = conn
		c.mu.Unlock()
		return conn, nil
	}
	info.heads = &headRecorder{}
	recorded := recordedConn{conn, info.heads}
	c.remember(recorded, info)
	return recorded, nil
}

// refusal is the alert that ended the last connection, if one did: a server that wants a
// certificate under TLS 1.3 says so after the handshake, and net/http's HTTP/2 then only
// says that the connection could not be established.
func (c *client) refusal() error {
	c.mu.Lock()
	conn := c.last
	c.mu.Unlock()
	if conn == nil {
		return nil
	}
	_, err := conn.Read(make([]byte, 1)) // does not wait: the connection is over
	var remote *net.OpError
	if errors.As(err, &remote) && remote.Op == "remote error" {
		return err
	}
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// tlsConfig verifies by hand, so that -v and -k can tell what was wrong.
func (c *client) tlsConfig(host string, info *connInfo) *tls.Config {
	protocols := []string{"h2", "http/1.1"}
	switch {
	case c.o.http11:
		protocols = protocols[1:]
	case c.o.prior:
		protocols = protocols[:1]
	}
	return &tls.Config{
		ServerName: host, NextProtos: protocols, Certificates: c.certs, MinVersion: c.o.tlsMin, MaxVersion: c.o.tlsMax,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(cs tls.ConnectionState) error {
			info.verify = c.verify(host, cs)
			if c.o.insecure {
				return nil
			}
			if info.verify != nil {
				info.state = &cs
				c.describeTLS(info)
			}
			return info.verify
		},
	}
}

func (c *client) verify(host string, cs tls.ConnectionState) error {
	opts := x509.VerifyOptions{Roots: c.roots, DNSName: host, Intermediates: x509.NewCertPool()}
	for _, cert := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(cert)
	}
	if _, err := cs.PeerCertificates[0].Verify(opts); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: cs.PeerCertificates, Err: err}
	}
	return nil
}

// connect opens the TCP connection, or the Unix socket, to the first address that answers.
func (c *client) connect(ctx context.Context, addr string, info *connInfo) (net.Conn, error) {
	d := net.Dialer{Timeout: c.o.connectTimeout}
	if c.o.unixSocket != "" {
		conn, err := d.DialContext(ctx, "unix", c.call.Path(c.o.unixSocket))
		if err != nil {
			return nil, failf(codeConnect, "connect to %s: %w", c.o.unixSocket, err)
		}
		info.connect = time.Since(info.began)
		return conn, nil
	}
	host, port, err := net.SplitHostPort(c.redirected(addr))
	if err != nil {
		return nil, failf(codeURL, "%w", err)
	}
	ips, err := c.lookup(ctx, host, port)
	if err != nil {
		return nil, err
	}
	info.lookup = time.Since(info.began)
	var last error
	for _, ip := range ips {
		c.say('*', "  Trying %s...", net.JoinHostPort(ip, port))
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(ip, port))
		if err == nil {
			info.connect = time.Since(info.began)
			c.say('*', "Connected to %s (%s) port %s", host, ip, port)
			return conn, nil
		}
		c.say('*', "%v", err)
		last = err
	}
	code := codeConnect
	var t net.Error
	if errors.As(last, &t) && t.Timeout() {
		code = codeTimeout
	}
	return nil, failf(code, "failed to connect to %s port %s after %d ms: %w", host, port, time.Since(info.began).Milliseconds(), last)
}

// redirected applies --connect-to.
func (c *client) redirected(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	for _, rule := range c.o.connectTo {
		p := splitColons(rule)
		if len(p) != 4 || p[0] != "" && p[0] != host || p[1] != "" && p[1] != port {
			continue
		}
		if p[2] != "" {
			host = p[2]
		}
		if p[3] != "" {
			port = p[3]
		}
		return net.JoinHostPort(host, port)
	}
	return addr
}

// splitColons splits at colons but not within brackets, which it takes away.
func splitColons(s string) []string {
	var parts []string
	var b strings.Builder
	inside := false
	for _, r := range s {
		switch {
		case r == '[':
			inside = true
		case r == ']':
			inside = false
		case r == ':' && !inside:
			parts = append(parts, b.String())
			b.Reset()
		default:
			b.WriteRune(r)
		}
	}
	return append(parts, b.String())
}

// lookup returns the addresses to try, by --resolve or by the system's resolver.
func (c *client) lookup(ctx context.Context, host, port string) ([]string, error) {
	for _, rule := range c.o.resolve {
		p := strings.SplitN(strings.TrimPrefix(rule, "+"), ":", 3)
		if len(p) == 3 && (p[0] == host || p[0] == "*") && p[1] == port {
			ips := strings.Split(p[2], ",")
			for i := range ips {
				ips[i] = strings.Trim(ips[i], "[]")
			}
			return ips, nil
		}
	}
	var ips []netip.Addr
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil:
		ips = []netip.Addr{ip}
	case host == "localhost":
		ips = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	default:
		if ips, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
			return nil, failf(lookupCode(err), "could not resolve host: %s (%w)", host, err)
		}
	}
	var out []string
	for _, ip := range ips {
		ip = ip.Unmap()
		if c.o.ipv4 && !ip.Is4() || c.o.ipv6 && !ip.Is6() {
			continue
		}
		out = append(out, ip.String())
	}
	if len(out) == 0 {
		return nil, failf(codeResolve, "could not resolve host: %s (no address of that family)", host)
	}
	return out, nil
}

func lookupCode(err error) int {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errMaxTime) {
		return codeTimeout
	}
	return codeResolve
}
