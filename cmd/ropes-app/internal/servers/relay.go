package servers

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// Relay is the program relay: it makes requests from where it stands, as it is told, and says what came of them.
func Relay(ctx context.Context, call *applet.Call) int {
	return program(ctx, call, func(opts *applet.Options) func() ([]endpoint, error) {
		listen := ":7000"
		opts.String(&listen, "listen")
		return func() ([]endpoint, error) {
			mux := http.NewServeMux()
			mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
			mux.HandleFunc("POST /fetch", answerWith(fetchOnce))
			mux.HandleFunc("POST /raw", answerWith(exchangeRaw))
			mux.HandleFunc("POST /load", relayLoad)
			return plain(listen, mux), nil
		}
	})
}

// order is one request to make.
type order struct {
	URL, Method, Host string
	Headers           http.Header
	Body              []byte
	Address           string // where to connect instead of to the URL's host
	HTTP2             bool   // with prior knowledge where there is no TLS
	TimeoutMS         int    // 0 means 10 s
	TLS               orderTLS
}

type orderTLS struct {
	ServerName    string
	CA, Cert, Key []byte // PEM; without CA nothing is verified
	ALPN          []string
}

// outcome is what came of an order.
type outcome struct {
	Status            int
	Proto             string
	Headers, Trailers http.Header
	Body              []byte
	TookMS            float64
	Peer              []string // names in the server's certificate
	Err               string
}

func (o *order) deadline() time.Duration {
	if o.TimeoutMS <= 0 {
		return 10 * time.Second
	}
	return time.Duration(o.TimeoutMS) * time.Millisecond
}

func (o orderTLS) config() (*tls.Config, error) {
	cfg := &tls.Config{ServerName: o.ServerName, NextProtos: o.ALPN, InsecureSkipVerify: len(o.CA) == 0} //nolint:gosec // a tool to look with
	if len(o.CA) > 0 {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(o.CA) {
			return nil, errors.New("CA: no PEM certificate found")
		}
	}
	if len(o.Cert) > 0 {
		pair, err := tls.X509KeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, err
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

func (o *order) transport() (*http.Transport, error) {
	cfg, err := o.TLS.config()
	if err != nil {
		return nil, err
	}
	t := &http.Transport{TLSClientConfig: cfg, MaxIdleConnsPerHost: 64, DisableCompression: true}
	if o.HTTP2 {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetHTTP2(true)
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	if o.Address != "" {
		t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, o.Address)
		}
	}
	return t, nil
}

// answerWith makes a handler that reads an order as JSON and writes what fn makes of it.
func answerWith[In, Out any](fn func(context.Context, *In) *Out) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		in := new(In)
		if err := json.NewDecoder(r.Body).Decode(in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(fn(r.Context(), in)) // where it fails, nobody is left to tell
	}
}

func fetchOnce(ctx context.Context, o *order) *outcome {
	t, err := o.transport()
	if err != nil {
		return &outcome{Err: err.Error()}
	}
	defer t.CloseIdleConnections()
	return o.do(ctx, t)
}

// do sends the order over t. Redirects are not followed.
func (o *order) do(ctx context.Context, t *http.Transport) *outcome {
	ctx, cancel := context.WithTimeout(ctx, o.deadline())
	defer cancel()
	out := &outcome{}
	began := time.Now()
	defer func() { out.TookMS = float64(time.Since(began).Microseconds()) / 1000 }()
	var body io.Reader
	if len(o.Body) > 0 {
		body = bytes.NewReader(o.Body)
	}
	req, err := http.NewRequestWithContext(ctx, o.Method, o.URL, body)
	if err != nil {
		out.Err = err.Error()
		return out
	}
	for k, v := range o.Headers {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	req.Host = o.Host
	resp, err := t.RoundTrip(req)
	if err != nil {
		out.Err = err.Error()
		return out
	}
	defer resp.Body.Close()
	out.Status, out.Proto, out.Headers = resp.StatusCode, resp.Proto, resp.Header
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		out.Peer = names(resp.TLS.PeerCertificates[0])
	}
	if out.Body, err = io.ReadAll(io.LimitReader(resp.Body, maxRelayed)); err != nil {
		out.Err = err.Error()
	}
	if len(out.Body) == maxRelayed {
		out.Err = fmt.Sprintf("the response is longer than %d bytes", maxRelayed)
	}
	out.Trailers = resp.Trailer
	return out
}

// maxRelayed is how much of a response is reported: the metrics of a busy sidecar are some megabytes.
const maxRelayed = 16 << 20

func names(c *x509.Certificate) []string {
	all := append([]string(nil), c.DNSNames...)
	for _, u := range c.URIs {
		all = append(all, u.String())
	}
	if len(all) == 0 {
		all = append(all, c.Subject.CommonName)
	}
	return all
}

// rawOrder is bytes to send over a connection.
type rawOrder struct {
	Address string
	Secure  bool
	TLS     orderTLS
	Send    []byte
	Then    []byte // what to send once something has come back
	Want    int    // bytes after which the connection may be closed; 0 means to read to its end
	WaitMS  int    // how long to wait for them; 0 means 5 s
}

type rawOutcome struct {
	Received []byte
	Peer     []string
	Err      string
}

func exchangeRaw(ctx context.Context, o *rawOrder) *rawOutcome {
	out := &rawOutcome{}
	wait := time.Duration(o.WaitMS) * time.Millisecond
	if wait <= 0 {
		wait = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	fail := func(err error) *rawOutcome {
		out.Err = err.Error()
		return out
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", o.Address)
	if err != nil {
		return fail(err)
	}
	defer func() { c.Close() }()
	if d, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(d) // a fresh connection takes one
	}
	if o.Secure {
		cfg, err := o.TLS.config()
		if err != nil {
			return fail(err)
		}
		tc := tls.Client(c, cfg)
		if err := tc.HandshakeContext(ctx); err != nil {
			return fail(err)
		}
		if certs := tc.ConnectionState().PeerCertificates; len(certs) > 0 {
			out.Peer = names(certs[0])
		}
		c = tc
	}
	if _, err := c.Write(o.Send); err != nil {
		return fail(err)
	}
	buf := make([]byte, 32<<10)
	for o.Want == 0 || len(out.Received) < o.Want {
		n, err := c.Read(buf)
		out.Received = append(out.Received, buf[:n]...)
		if n > 0 && len(o.Then) > 0 {
			_, werr := c.Write(o.Then)
			o.Then, err = nil, errors.Join(err, werr)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				out.Err = err.Error()
			}
			break
		}
	}
	return out
}
