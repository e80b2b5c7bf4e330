package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/ropes-dev/ropes/checks"
)

// handshake makes a TLS handshake over conn and looks at the peer's certificate, also where
// the peer breaks the handshake off after showing it.
func handshake(ctx context.Context, conn net.Conn, pr checks.Probe) checks.Result {
	ctx, cancel := context.WithTimeout(ctx, pr.Timeout)
	defer cancel()
	var peer *x509.Certificate
	host, _, _ := net.SplitHostPort(pr.TLS.Address)
	name := pr.TLS.ServerName
	if name == "" {
		name = host
	}
	c := tls.Client(conn, &tls.Config{
		ServerName:         name,
		NextProtos:         pr.TLS.ALPN,
		InsecureSkipVerify: true, // the question is what the peer shows, whoever signed it
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if len(raw) > 0 {
				peer, _ = x509.ParseCertificate(raw[0])
			}
			return nil
		},
	})
	err := c.HandshakeContext(ctx)
	if err == nil && peer != nil {
		// TLS 1.3: a server that wants a certificate says so after the client is done.
		_ = conn.SetReadDeadline(time.Now().Add(min(pr.Timeout, alertWait)))
		_, readErr := c.Read(make([]byte, 1))
		if readErr != nil && strings.Contains(readErr.Error(), "remote error") {
			err = readErr
		}
	}
	var r checks.Result
	if err != nil {
		kind := wordsKind(err.Error())
		if kind == kindOther || strings.Contains(err.Error(), "tls:") {
			kind = kindTLS
		}
		r = failed(pr, kind, err.Error())
	} else {
		r = done(pr)
	}
	if peer != nil {
		r["peer"] = peerOf(peer)
	}
	if st := c.ConnectionState(); st.HandshakeComplete {
		r["version"], r["alpn"] = tls.VersionName(st.Version), st.NegotiatedProtocol
	}
	return r
}

// alertWait is how long a finished handshake is given for the peer's late refusal.
const alertWait = 300 * time.Millisecond

func peerOf(c *x509.Certificate) map[string]any {
	uris, names := []any{}, []any{}
	for _, u := range c.URIs {
		uris = append(uris, u.String())
	}
	for _, n := range c.DNSNames {
		names = append(names, n)
	}
	return map[string]any{
		"uris": uris, "dnsNames": names, "subject": c.Subject.String(), "issuer": c.Issuer.String(),
		"notAfter": c.NotAfter.UTC().Format(time.RFC3339), "serial": c.SerialNumber.Text(16),
	}
}

// podTLS makes the handshake here, over a connection that nc opens in the pod.
func (p *Prober) podTLS(ctx context.Context, at target, pr checks.Probe) (checks.Result, error) {
	host, port, err := net.SplitHostPort(pr.TLS.Address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pr.TLS.Pos, err)
	}
	t := p.tunnel(ctx, at, []string{"nc", "-v", "-w", wholeSeconds(pr.Timeout), host, port})
	defer t.Close() //nolint:errcheck // the probe has its answer
	// nc -v speaks when it has connected, and when it could not: only from then on does the
	// probe's time run, however long the exec took.
	select {
	case <-t.errs.spoke:
	case <-t.ended:
	case <-ctx.Done():
		return nil, fmt.Errorf("nc in %s said nothing: %w", at, ctx.Err())
	}
	r := handshake(ctx, t, pr)
	if r["ok"] == true || r["peer"] != nil {
		return r, nil
	}
	code, err := t.end(pr.Timeout)
	if err != nil {
		return nil, err
	}
	if words := t.errs.String(); code != 0 && wordsKind(words) != kindOther {
		return failed(pr, wordsKind(words), said(words, "nc could not connect")), nil
	}
	return r, nil
}

// tunnel is a connection through the standard streams of a program in a pod.
type tunnel struct {
	net.Conn // our end of a pipe
	cancel   context.CancelFunc
	ended    chan struct{}
	code     int
	err      error
	errs     syncCapture
}

func (p *Prober) tunnel(ctx context.Context, at target, command []string) *tunnel {
	ctx, cancel := context.WithCancel(ctx)
	ours, theirs := net.Pipe()
	t := &tunnel{Conn: ours, cancel: cancel, ended: make(chan struct{})}
	t.errs.spoke = make(chan struct{})
	go func() {
		defer close(t.ended)
		defer theirs.Close()
		err := p.exec.Exec(ctx, at, command, theirs, theirs, &t.errs)
		if exit, ok := err.(exitError); ok { //nolint:errorlint // Exec returns it bare
			t.code, err = int(exit), nil
		}
		t.err = err
	}()
	return t
}

// end waits for the program to end and returns its status.
func (t *tunnel) end(within time.Duration) (int, error) {
	_ = t.Conn.Close()
	select {
	case <-t.ended:
		return t.code, t.err
	case <-time.After(within):
		return 0, nil // still open: the failure is the handshake's
	}
}

// Close ends the program too.
func (t *tunnel) Close() error {
	err := t.Conn.Close()
	t.cancel()
	<-t.ended
	return err
}

// syncCapture is a capture that may be read while it is written.
type syncCapture struct {
	spoke chan struct{} // closed by the first write
	mu    sync.Mutex
	c     capture
}

var _ io.Writer = (*syncCapture)(nil)

func (s *syncCapture) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c.Len() == 0 && len(p) > 0 {
		close(s.spoke)
	}
	return s.c.Write(p)
}

func (s *syncCapture) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c.String()
}
