package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// authority signs workload certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"test"}}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) issue(t *testing.T, spiffe string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	u, err := url.Parse(spiffe)
	must(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{u},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &k.PublicKey, a.key)
	must(t, err)
	kd, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd})
}

// secretServer serves "default" and "ROOTCA" as pilot-agent's SDS socket does, and pushes new versions.
type secretServer struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	mu      sync.Mutex
	version int
	secrets map[string]*tlsv3.Secret
	changed chan struct{}
}

func serveSecrets(t *testing.T, socket string) *secretServer {
	t.Helper()
	s := &secretServer{secrets: map[string]*tlsv3.Secret{}, changed: make(chan struct{})}
	ln, err := net.Listen("unix", socket)
	must(t, err)
	openSocket(t, socket)
	g := grpc.NewServer()
	secretv3.RegisterSecretDiscoveryServiceServer(g, s)
	go func() { _ = g.Serve(ln) }()
	t.Cleanup(g.Stop)
	return s
}

func (s *secretServer) set(root, cert, key []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	s.secrets["default"] = &tlsv3.Secret{Name: "default", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(cert), PrivateKey: inline(key),
	}}}
	s.secrets["ROOTCA"] = &tlsv3.Secret{Name: "ROOTCA", Type: &tlsv3.Secret_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(root)},
	}}
	s.version++
	close(s.changed)
	s.changed = make(chan struct{})
}

// StreamSecrets implements the service.
func (s *secretServer) StreamSecrets(st secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	reqs := make(chan *discoveryv3.DiscoveryRequest)
	go func() {
		defer close(reqs)
		for {
			r, err := st.Recv()
			if err != nil {
				return
			}
			select {
			case reqs <- r:
			case <-st.Context().Done():
				return
			}
		}
	}()
	var names []string
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		select {
		case r, ok := <-reqs:
			if !ok {
				return nil
			}
			if r.GetErrorDetail() != nil {
				return fmt.Errorf("refused: %s", r.GetErrorDetail().GetMessage())
			}
			if fmt.Sprint(names) == fmt.Sprint(r.GetResourceNames()) {
				continue
			}
			names = r.GetResourceNames()
		case <-changed:
		}
		s.mu.Lock()
		resp := &discoveryv3.DiscoveryResponse{TypeUrl: xds.SecretType, VersionInfo: fmt.Sprint(s.version), Nonce: fmt.Sprint(s.version)}
		for _, n := range names {
			a, err := anypb.New(s.secrets[n])
			if err == nil {
				resp.Resources = append(resp.Resources, a)
			}
		}
		s.mu.Unlock()
		if err := st.Send(resp); err != nil {
			return err
		}
	}
}
