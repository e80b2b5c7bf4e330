package tlsctx

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

// peerRules are what a validation context asks of a peer's certificate, besides a chain to a trusted CA.
type peerRules struct {
	sans      []sanMatcher
	hashes    [][sha256.Size]byte // of the certificate
	spkis     [][sha256.Size]byte // of its public key
	acceptAll bool                // ACCEPT_UNTRUSTED
	leafOnly  bool                // only_verify_leaf_cert_crl
}

func (r *peerRules) pinned() bool { return len(r.hashes)+len(r.spkis) > 0 }

func (r *peerRules) compile(v *tlsv3.CertificateValidationContext) error {
	r.acceptAll = v.GetTrustChainVerification() == tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED
	r.leafOnly = v.GetOnlyVerifyLeafCertCrl()
	var err error
	if r.sans, err = compileSANs(v); err != nil {
		return err
	}
	for _, p := range v.GetVerifyCertificateHash() {
		b, err := hex.DecodeString(strings.ReplaceAll(p, ":", ""))
		if err != nil || len(b) != sha256.Size {
			return fmt.Errorf("verify_certificate_hash: %q is no hex-encoded SHA-256", p)
		}
		r.hashes = append(r.hashes, [sha256.Size]byte(b))
	}
	for _, p := range v.GetVerifyCertificateSpki() {
		b, err := base64.StdEncoding.DecodeString(p)
		if err != nil || len(b) != sha256.Size {
			return fmt.Errorf("verify_certificate_spki: %q is no base64-encoded SHA-256", p)
		}
		r.spkis = append(r.spkis, [sha256.Size]byte(b))
	}
	return nil
}

// needsCA refuses, as Envoy does, rules that mean nothing without a trusted CA.
func needsCA(s *Secret) error {
	switch {
	case len(s.CRLs) > 0:
		return errors.New("crl: not allowed without trusted_ca")
	case len(s.rules.sans) > 0:
		return errors.New("SAN-based verification of peer certificates without trusted CA is insecure and not allowed")
	}
	return nil
}

var (
	// ErrPeerIdentity says that the peer's certificate carries no accepted subject alternative name.
	ErrPeerIdentity = errors.New("verify SAN list: no subject alternative name matches")
	// ErrPin says that the peer's certificate is none of those that are named by their hashes.
	ErrPin = errors.New("verify certificate hash: the certificate is not pinned")
)

// contexts are the validation contexts in force: what SDS gives comes first and adds to what stands in the
// configuration.
func (c *common) contexts() ([]*Secret, error) {
	var out []*Secret
	if c.roots != nil {
		s := c.roots.Load()
		if s == nil || s.Roots == nil && (c.static == nil || c.static.Roots == nil) {
			return nil, fmt.Errorf("validation context %q: %w", c.roots.Key.Name, ErrNoSecret)
		}
		out = append(out, s)
	}
	if c.static != nil {
		out = append(out, c.static)
	}
	return out, nil
}

// clientCAs are the names that a server tells clients when it asks for a certificate.
func (c *common) clientCAs() *x509.CertPool {
	all, _ := c.contexts()
	for _, s := range all {
		if s.Roots != nil {
			return s.Roots
		}
	}
	return nil
}

// verifyPeer checks the peer's chain, names and pins; extra, when not nil, must also hold for some name.
func (c *common) verifyPeer(state tls.ConnectionState, extra match.String) error {
	if !c.verify || len(state.PeerCertificates) == 0 {
		return nil
	}
	all, err := c.contexts()
	if err != nil {
		return err
	}
	leaf := state.PeerCertificates[0]
	var roots *x509.CertPool
	var lists []*x509.RevocationList
	var rules peerRules
	for _, s := range all {
		if s.rules.acceptAll {
			return nil
		}
		if roots == nil {
			roots = s.Roots
		}
		if len(lists) == 0 {
			lists = s.CRLs
		}
		rules.leafOnly = rules.leafOnly || s.rules.leafOnly
		rules.sans = join(rules.sans, s.rules.sans)
		rules.hashes, rules.spkis = join(rules.hashes, s.rules.hashes), join(rules.spkis, s.rules.spkis)
	}
	if roots != nil {
		chain, err := verifyChain(roots, state.PeerCertificates)
		if err != nil {
			return err
		}
		if rules.leafOnly {
			err = checkLeaf(lists, chain, time.Now())
		} else {
			err = checkRevocation(lists, chain, time.Now())
		}
		if err != nil {
			return err
		}
	}
	return rules.check(leaf, extra)
}

// join adds b to a without writing to either.
func join[T any](a, b []T) []T {
	switch {
	case len(a) == 0:
		return b
	case len(b) == 0:
		return a
	}
	return slices.Concat(a, b)
}

func (r *peerRules) check(leaf *x509.Certificate, extra match.String) error {
	if len(r.sans) > 0 && !slices.ContainsFunc(r.sans, func(m sanMatcher) bool { return m(leaf) }) ||
		extra != nil && !anySAN(leaf, extra) {
		return fmt.Errorf("%w (peer has %v %v)", ErrPeerIdentity, leaf.URIs, leaf.DNSNames)
	}
	if r.pinned() && !slices.Contains(r.hashes, sha256.Sum256(leaf.Raw)) &&
		!slices.Contains(r.spkis, sha256.Sum256(leaf.RawSubjectPublicKeyInfo)) {
		return ErrPin
	}
	return nil
}

// verifyChain finds a chain from the peer's certificate to a trusted CA.
func verifyChain(roots *x509.CertPool, peer []*x509.Certificate) ([]*x509.Certificate, error) {
	opts := x509.VerifyOptions{
		Roots:         roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   time.Now(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, ic := range peer[1:] {
		opts.Intermediates.AddCert(ic)
	}
	chains, err := peer[0].Verify(opts)
	if err != nil {
		return nil, fmt.Errorf("verify peer certificate: %w", err)
	}
	return chains[0], nil
}
