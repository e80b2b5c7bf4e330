package tlsctx

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// ErrRevoked says that a certificate of the peer's chain is on a revocation list.
var ErrRevoked = errors.New("peer certificate is revoked")

// parseCRLs reads PEM-encoded revocation lists. A file without any holds no list, which
// is what Istio mounts where no list is configured.
func parseCRLs(data []byte) ([]*x509.RevocationList, error) {
	var out []*x509.RevocationList
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return out, nil
		}
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("crl: %w", err)
		}
		out = append(out, l)
	}
}

// checkRevocation holds a verified chain, leaf first, against the lists. As in Envoy,
// where there are lists every issuer of the chain must have one.
func checkRevocation(lists []*x509.RevocationList, chain []*x509.Certificate, now time.Time) error {
	if len(lists) == 0 {
		return nil
	}
	for i, c := range chain {
		if err := revoked(lists, c, chain[min(i+1, len(chain)-1)], now); err != nil {
			return err
		}
	}
	return nil
}

// checkLeaf is checkRevocation for the peer's own certificate alone.
func checkLeaf(lists []*x509.RevocationList, chain []*x509.Certificate, now time.Time) error {
	if len(lists) == 0 {
		return nil
	}
	return revoked(lists, chain[0], chain[min(1, len(chain)-1)], now)
}

// revoked looks for one certificate on the lists of its issuer. A list out of its time is no list.
func revoked(lists []*x509.RevocationList, c, issuer *x509.Certificate, now time.Time) error {
	var found bool
	var stale error
	for _, l := range lists {
		if l.CheckSignatureFrom(issuer) != nil {
			continue
		}
		if now.Before(l.ThisUpdate) || !l.NextUpdate.IsZero() && now.After(l.NextUpdate) {
			stale = fmt.Errorf("verify peer certificate: the revocation list of %s is out of its time", issuer.Subject)
			continue
		}
		found = true
		for _, r := range l.RevokedCertificateEntries {
			if r.SerialNumber.Cmp(c.SerialNumber) == 0 {
				return fmt.Errorf("%w: serial %s of %s", ErrRevoked, c.SerialNumber, issuer.Subject)
			}
		}
	}
	switch {
	case found:
		return nil
	case stale != nil:
		return stale
	}
	return fmt.Errorf("verify peer certificate: no revocation list of %s", issuer.Subject)
}
