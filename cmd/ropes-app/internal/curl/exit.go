package curl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"golang.org/x/net/http2"
)

// curl's exit codes, those that can come up here.
const (
	codeScheme      = 1
	codeUsage       = 2
	codeURL         = 3
	codeResolve     = 6
	codeConnect     = 7
	codeHTTP2       = 16
	codePartial     = 18
	codeHTTPError   = 22
	codeWrite       = 23
	codeRead        = 26
	codeTimeout     = 28
	codeTLS         = 35
	codeRedirects   = 47
	codeEmptyReply  = 52
	codeSend        = 55
	codeReceive     = 56
	codeCertificate = 58 // a local one
	codePeerFailed  = 60
	codeCACert      = 77
	codeHTTP2Stream = 92
)

// errMaxTime is the cause of a context that --max-time has ended.
var errMaxTime = errors.New("operation timed out: --max-time is over")

// exitError carries its exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func failf(code int, format string, args ...any) error {
	return &exitError{code, fmt.Errorf(format, args...)}
}

// codeOf finds the exit code of an error, whoever made it.
func codeOf(err error) int {
	var known *exitError
	var failed *httpError
	var resolve *net.DNSError
	var dial *net.OpError
	var stream http2.StreamError
	var goAway http2.GoAwayError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &known):
		return known.code
	case errors.As(err, &failed):
		return codeHTTPError
	case errors.Is(err, errMaxTime), errors.Is(err, context.DeadlineExceeded):
		return codeTimeout
	case errors.As(err, &resolve):
		return codeResolve
	case errors.As(err, &timeout) && timeout.Timeout():
		return codeTimeout
	case errors.As(err, &dial) && dial.Op == "dial":
		return codeConnect
	case errors.As(err, &stream), strings.Contains(err.Error(), "stream error: stream ID"):
		return codeHTTP2Stream
	case errors.As(err, &goAway), strings.Contains(err.Error(), "http2:"):
		return codeHTTP2
	case strings.Contains(err.Error(), "malformed HTTP"):
		return codeScheme // curl: "Received HTTP/0.9 when not allowed"
	case errors.Is(err, syscall.EPIPE):
		return codeSend
	case errors.Is(err, syscall.ECONNRESET):
		return codeReceive
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(err.Error(), "server closed idle connection"):
		return codeEmptyReply
	}
	return codeReceive
}

// explain puts an error of the transport into a learner's words, with its code.
func explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(context.Cause(ctx), errMaxTime) {
		return &exitError{codeTimeout, errMaxTime}
	}
	var known *exitError
	if errors.As(err, &known) {
		return known
	}
	code := codeOf(err)
	switch code {
	case codeEmptyReply:
		return failf(code, "empty reply from server")
	case codeReceive:
		if errors.Is(err, syscall.ECONNRESET) {
			return failf(code, "receive: connection reset by peer")
		}
	case codeScheme:
		return failf(code, "the answer is not HTTP: %w", err)
	}
	return &exitError{code, err}
}

// explainTLS tells a certificate that was refused from a handshake that failed.
func explainTLS(host string, err error) error {
	var verify *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &verify), errors.As(err, &authority), errors.As(err, &name), errors.As(err, &invalid):
		return failf(codePeerFailed, "SSL certificate problem of %s: %w", host, err)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return failf(codeTLS, "TLS connect error: %s closed the connection in the handshake", host)
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return failf(codeTimeout, "TLS handshake with %s timed out", host)
	}
	return failf(codeTLS, "TLS connect error: %w", err)
}
