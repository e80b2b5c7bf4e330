package e2e

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// tlsOptions are how an order of kind "tls" speaks: HTTP/1.1 over TLS, or bytes.
type tlsOptions struct {
	SNI       string
	Prefix    []byte   // sent before the handshake, as it is
	Cert, Key string   // PEM; the client's certificate
	ALPN      []string // offered
	Raw       bool     // Body is sent as it is and a line is read
	Plain     bool     // no TLS at all
}

// sendTLS tells in the outcome's header who answered: X-Peer is the first URI of the server's certificate, X-Alpn
// the protocol.
func sendTLS(o order) outcome {
	nc, err := net.DialTimeout("tcp", o.URL, 5*time.Second)
	if err != nil {
		return outcome{Err: err.Error()}
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := nc.Write(o.Secure.Prefix); err != nil {
		return outcome{Err: err.Error()}
	}
	facts := http.Header{}
	c := nc
	if !o.Secure.Plain {
		cfg := &tls.Config{InsecureSkipVerify: true, ServerName: o.Secure.SNI, NextProtos: o.Secure.ALPN}
		if o.Secure.Cert != "" {
			pair, err := tls.X509KeyPair([]byte(o.Secure.Cert), []byte(o.Secure.Key))
			if err != nil {
				return outcome{Err: err.Error()}
			}
			cfg.Certificates = []tls.Certificate{pair}
		}
		tc := tls.Client(nc, cfg)
		if err := tc.Handshake(); err != nil {
			return outcome{Err: "handshake: " + err.Error()}
		}
		st := tc.ConnectionState()
		facts.Set("X-Alpn", st.NegotiatedProtocol)
		if uris := st.PeerCertificates[0].URIs; len(uris) > 0 {
			facts.Set("X-Peer", uris[0].String())
		}
		c = tc
	}
	if o.Secure.Raw {
		if _, err := io.WriteString(c, o.Body); err != nil {
			return outcome{Header: facts, Err: err.Error()}
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return outcome{Header: facts, Body: line, Err: err.Error()}
		}
		return outcome{Header: facts, Body: line}
	}
	req, err := http.NewRequest(http.MethodGet, "http://"+o.Host+o.Body, nil)
	if err != nil {
		return outcome{Err: err.Error()}
	}
	if err := req.Write(c); err != nil {
		return outcome{Header: facts, Err: err.Error()}
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return outcome{Header: facts, Err: err.Error()}
	}
	b, err := io.ReadAll(resp.Body)
	for k, v := range facts {
		resp.Header[k] = v
	}
	out := outcome{Status: resp.StatusCode, Header: resp.Header, Body: string(b)}
	if err != nil {
		out.Err = err.Error()
	}
	return out
}

// serveTLS is HTTPS with the certificate in the files tls.crt and tls.key of the working directory, as they are at
// the time. What it was told of TLS comes to the handler as headers.
func serveTLS(addr string, h http.Handler) {
	srv := &http.Server{
		Addr: addr,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("X-Tls-Sni", r.TLS.ServerName)
			r.Header.Set("X-Tls-Client", clientOf(r.TLS.PeerCertificates))
			h.ServeHTTP(w, r)
		}),
		TLSConfig: &tls.Config{
			ClientAuth: tls.RequestClientCert,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				pair, err := tls.LoadX509KeyPair("tls.crt", "tls.key")
				return &pair, err
			},
		},
	}
	_ = srv.ListenAndServeTLS("", "")
}

func clientOf(chain []*x509.Certificate) string {
	if len(chain) == 0 {
		return "none"
	}
	var uris []string
	for _, u := range chain[0].URIs {
		uris = append(uris, u.String())
	}
	return strings.Join(uris, " ")
}
