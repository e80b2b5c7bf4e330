// Package tlsctx turns Envoy's TLS contexts and SDS secrets into crypto/tls handshakes, for both directions.
//
// It knows certificates, SPIFFE identities and ALPN. It does not know where secrets come from (package xds does) nor
// what the connections carry.
package tlsctx

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// Source says who serves a secret: the name of the gRPC cluster, or ADS.
type Source string

// ADS is the source of secrets that come over the aggregated stream.
const ADS Source = "ads"

// Secret is one version of one secret, parsed.
type Secret struct {
	Proto   *tlsv3.Secret
	Version string
	Updated time.Time
	Cert    *tls.Certificate // set for a certificate
	Roots   *x509.CertPool   // set for a validation context with a trusted CA
	CAs     []*x509.Certificate
	CRLs    []*x509.RevocationList // of a validation context; none where nothing is revoked
	rules   peerRules              // of a validation context
}

// ParseSecret parses a tls_certificate or validation_context secret. Errors name the secret.
func ParseSecret(s *tlsv3.Secret, version string, now time.Time) (*Secret, error) {
	out := &Secret{Proto: s, Version: version, Updated: now}
	switch t := s.GetType().(type) {
	case *tlsv3.Secret_TlsCertificate:
		if err := fields.Check(t.TlsCertificate, "certificate_chain private_key ocsp_staple"); err != nil {
			return nil, fmt.Errorf("secret %q: %w", s.GetName(), err)
		}
		cert, err := keyPair(t.TlsCertificate)
		if err != nil {
			return nil, fmt.Errorf("secret %q: %w", s.GetName(), err)
		}
		out.Cert = cert
	case *tlsv3.Secret_ValidationContext:
		if err := out.setValidation(t.ValidationContext); err != nil {
			return nil, fmt.Errorf("secret %q: %w", s.GetName(), err)
		}
	default:
		return nil, fmt.Errorf("secret %q: %w", s.GetName(), fields.Unsupported(s, fmt.Sprintf("type (%T)", t), ""))
	}
	return out, nil
}

func (s *Secret) setValidation(v *tlsv3.CertificateValidationContext) error {
	const known = "trusted_ca match_typed_subject_alt_names match_subject_alt_names trust_chain_verification crl " +
		"only_verify_leaf_cert_crl verify_certificate_spki verify_certificate_hash"
	if err := fields.Check(v, known); err != nil {
		return err
	}
	if err := s.rules.compile(v); err != nil {
		return err
	}
	crl, err := dataSource(v.GetCrl())
	if err != nil {
		return fmt.Errorf("crl: %w", err)
	}
	if s.CRLs, err = parseCRLs(crl); err != nil {
		return err
	}
	pemBytes, err := dataSource(v.GetTrustedCa())
	if err != nil {
		return fmt.Errorf("trusted_ca: %w", err)
	}
	if len(pemBytes) == 0 {
		return nil
	}
	s.Roots = x509.NewCertPool()
	for rest := pemBytes; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("trusted_ca: %w", err)
		}
		s.CAs = append(s.CAs, c)
		s.Roots.AddCert(c)
	}
	if len(s.CAs) == 0 {
		return errors.New("trusted_ca: no PEM certificate found")
	}
	return nil
}

func keyPair(c *tlsv3.TlsCertificate) (*tls.Certificate, error) {
	if c.GetPrivateKeyProvider() != nil {
		return nil, fields.Unsupported(c, "private_key_provider", c.GetPrivateKeyProvider().GetProviderName())
	}
	chain, err := dataSource(c.GetCertificateChain())
	if err != nil {
		return nil, fmt.Errorf("certificate_chain: %w", err)
	}
	key, err := dataSource(c.GetPrivateKey())
	if err != nil {
		return nil, fmt.Errorf("private_key: %w", err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("certificate and key: %w", err)
	}
	pair.OCSPStaple, err = staple(c.GetOcspStaple(), time.Now())
	return &pair, err
}

func dataSource(d *corev3.DataSource) ([]byte, error) {
	switch s := d.GetSpecifier().(type) {
	case nil:
		return nil, nil
	case *corev3.DataSource_InlineBytes:
		return s.InlineBytes, nil
	case *corev3.DataSource_InlineString:
		return []byte(s.InlineString), nil
	case *corev3.DataSource_Filename:
		return os.ReadFile(s.Filename)
	case *corev3.DataSource_EnvironmentVariable:
		return []byte(os.Getenv(s.EnvironmentVariable)), nil
	default:
		return nil, fields.Unsupported(d, fmt.Sprintf("specifier (%T)", s), "")
	}
}

// Key names one secret at one source.
type Key struct {
	Source Source
	Name   string
}

// Ref is a place where the current version of one secret is found.
type Ref struct {
	Key     Key
	current atomic.Pointer[Secret]
	ready   chan struct{}
	once    sync.Once
}

// Load returns the current version, or nil when none has arrived.
func (r *Ref) Load() *Secret { return r.current.Load() }

// Ready is closed when the first version has arrived.
func (r *Ref) Ready() <-chan struct{} { return r.ready }

// Store holds all secrets that configuration refers to.
type Store struct {
	mu   sync.Mutex
	refs map[Key]*Ref
}

// NewStore returns an empty store.
func NewStore() *Store { return &Store{refs: map[Key]*Ref{}} }

// Ref returns the place for k, making it when it is new.
func (s *Store) Ref(k Key) *Ref {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.refs[k]
	if !ok {
		r = &Ref{Key: k, ready: make(chan struct{})}
		s.refs[k] = r
	}
	return r
}

// Set publishes a new version of k. Handshakes from now on use it; running connections keep theirs.
func (s *Store) Set(k Key, secret *Secret) {
	r := s.Ref(k)
	r.current.Store(secret)
	r.once.Do(func() { close(r.ready) })
}

// Keep drops every secret that is not wanted.
func (s *Store) Keep(wanted map[Key]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.refs {
		if !wanted[k] {
			delete(s.refs, k)
		}
	}
}

// All returns every place, in no order.
func (s *Store) All() []*Ref {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Ref, 0, len(s.refs))
	for _, r := range s.refs {
		out = append(out, r)
	}
	return out
}
