package tlsctx

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newCA(t *testing.T) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &ca{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

// identity makes the two secrets of a workload.
func (c *ca) identity(t *testing.T, spiffe string) (cert, root *Secret) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(spiffe)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{u},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, &key.PublicKey, c.key)
	if err != nil {
		t.Fatal(err)
	}
	kd, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err = ParseSecret(&tlsv3.Secret{Name: "default", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		PrivateKey:       inline(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd})),
	}}}, "1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	root, err = ParseSecret(&tlsv3.Secret{Name: "ROOTCA", Type: &tlsv3.Secret_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(c.pem)},
	}}, "1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return cert, root
}

func sds(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}}
}

func commonContext(sanPrefix string, alpn ...string) *tlsv3.CommonTlsContext {
	v := &tlsv3.CertificateValidationContext{}
	if sanPrefix != "" {
		//nolint:staticcheck // the form that istiod sends
		v.MatchSubjectAltNames = []*matcherv3.StringMatcher{{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: sanPrefix}}}
	}
	return &tlsv3.CommonTlsContext{
		AlpnProtocols:                  alpn,
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{sds("default")},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: v, ValidationContextSdsSecretConfig: sds("ROOTCA"),
			},
		},
	}
}

func store(cert, root *Secret) *Store {
	s := NewStore()
	if cert != nil {
		s.Set(Key{ADS, "default"}, cert)
	}
	if root != nil {
		s.Set(Key{ADS, "ROOTCA"}, root)
	}
	return s
}

func server(t *testing.T, s *Store, san string, alpn ...string) *Server {
	t.Helper()
	out, err := CompileDownstream(&tlsv3.DownstreamTlsContext{
		RequireClientCertificate: wrapperspb.Bool(true), CommonTlsContext: commonContext(san, alpn...),
	}, s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func client(t *testing.T, s *Store, san string, alpn ...string) *Client {
	t.Helper()
	out, err := CompileUpstream(&tlsv3.UpstreamTlsContext{Sni: "outbound_.80_._.x", CommonTlsContext: commonContext(san, alpn...)}, s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// shake runs both sides and exchanges a byte, so that a refusal of the client's certificate in TLS 1.3 shows.
func shake(t *testing.T, s *Server, c *Client, o Options) (srv, cli tls.ConnectionState, serr, cerr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := ln.Accept()
		if err != nil {
			serr = err
			return
		}
		defer func() { _ = raw.Close() }()
		tc, err := s.Handshake(ctx, raw)
		if serr = err; err == nil {
			srv = tc.ConnectionState()
			_, _ = tc.Write([]byte("x"))
		}
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	tc, err := c.Handshake(ctx, raw, o)
	if err == nil {
		_, err = tc.Read(make([]byte, 1))
		cli = tc.ConnectionState()
	}
	cerr = err
	_ = raw.Close()
	<-done
	return srv, cli, serr, cerr
}

func TestMutualTLS(t *testing.T) {
	mesh, other := newCA(t), newCA(t)
	const a, b = "spiffe://cluster.local/ns/ns/sa/a", "spiffe://cluster.local/ns/ns/sa/b"
	srv := store(mesh.identity(t, b))
	good := store(mesh.identity(t, a))
	foreign := store(other.identity(t, a))
	for _, tc := range []struct {
		name            string
		server          *Server
		client          *Client
		opts            Options
		serverOK, cliOK bool
	}{
		{"both sides accept", server(t, srv, "spiffe://cluster.local/", "h2", "http/1.1"), client(t, good, b, "istio", "h2"), Options{}, true, true},
		{"client wants another server", server(t, srv, ""), client(t, good, "spiffe://cluster.local/ns/ns/sa/c"), Options{}, false, false},
		{"server wants another trust domain", server(t, srv, "spiffe://other/"), client(t, good, ""), Options{}, false, false},
		{"client of another authority", server(t, srv, ""), client(t, foreign, ""), Options{}, false, false},
		{"no common ALPN is no error", server(t, srv, "", "h2"), client(t, good, "", "istio"), Options{}, true, true},
		{"SAN by host name", server(t, srv, ""), client(t, good, ""), Options{SAN: "x.example"}, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, _, serr, cerr := shake(t, tc.server, tc.client, tc.opts)
			if (serr == nil) != tc.serverOK || (cerr == nil) != tc.cliOK {
				t.Fatalf("server: %v, client: %v", serr, cerr)
			}
			if tc.serverOK && (len(s.PeerCertificates) == 0 || s.PeerCertificates[0].URIs[0].String() != a) {
				t.Errorf("server saw %v", s.PeerCertificates)
			}
		})
	}
}

func TestALPNOverrideAndResumption(t *testing.T) {
	mesh := newCA(t)
	srv := server(t, store(mesh.identity(t, "spiffe://d/b")), "", "h2", "http/1.1")
	cliStore := store(mesh.identity(t, "spiffe://d/a"))
	cli := client(t, cliStore, "", "istio-peer-exchange", "istio")
	o := Options{ALPN: []string{"istio-http/1.1", "istio", "http/1.1"}}
	s, _, serr, cerr := shake(t, srv, cli, o)
	if serr != nil || cerr != nil || s.NegotiatedProtocol != "http/1.1" || s.ServerName != "outbound_.80_._.x" {
		t.Fatalf("%v %v %q %q", serr, cerr, s.NegotiatedProtocol, s.ServerName)
	}
	s, _, _, _ = shake(t, srv, cli, o)
	if !s.DidResume {
		t.Error("the second handshake did not resume")
	}
	cert, _ := mesh.identity(t, "spiffe://d/a2")
	cliStore.Set(Key{ADS, "default"}, cert)
	s, _, serr, cerr = shake(t, srv, cli, o)
	if serr != nil || cerr != nil || s.DidResume || s.PeerCertificates[0].URIs[0].String() != "spiffe://d/a2" {
		t.Errorf("after rotation: %v %v resumed %t as %v", serr, cerr, s.DidResume, s.PeerCertificates[0].URIs)
	}
}

func TestMissingSecretsAreNamed(t *testing.T) {
	s := NewStore()
	srv, cli := server(t, s, ""), client(t, s, "")
	if n := len(srv.Waits()); n != 2 {
		t.Errorf("server waits for %d secrets, want 2", n)
	}
	_, _, serr, cerr := shake(t, srv, cli, Options{})
	if serr == nil || !errors.Is(cerr, ErrNoSecret) || !strings.Contains(cerr.Error(), `"default"`) {
		t.Errorf("server: %v, client: %v", serr, cerr)
	}
}

func TestRefusalsNameTheField(t *testing.T) {
	for _, tc := range []struct {
		name string
		ctx  *tlsv3.UpstreamTlsContext
		want string
	}{
		{"key log", &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{KeyLog: &tlsv3.TlsKeyLog{Path: "/x"}}}, "CommonTlsContext.key_log"},
		{"renegotiation", &tlsv3.UpstreamTlsContext{AllowRenegotiation: true}, "UpstreamTlsContext.allow_renegotiation"},
		{"cipher", &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams: &tlsv3.TlsParameters{CipherSuites: []string{"NULL-MD5"}},
		}}, "cipher NULL-MD5"},
	} {
		if _, err := CompileUpstream(tc.ctx, NewStore()); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if _, err := ParseSecret(&tlsv3.Secret{Name: "bad", Type: &tlsv3.Secret_TlsCertificate{
		TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline([]byte("x")), PrivateKey: inline([]byte("y"))},
	}}, "", time.Now()); err == nil || !strings.Contains(err.Error(), `"bad"`) {
		t.Errorf("malformed secret: %v", err)
	}
}
