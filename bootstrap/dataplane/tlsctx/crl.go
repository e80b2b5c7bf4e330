package tlsctx

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
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
func checkRevocation(lists []*x509.RevocationList, chain []*x509.Certificate) error {
	if len(lists) == 0 {
		return nil
	}
	for i, c := range chain {
		issuer := chain[min(i+1, len(chain)-1)]
		found := false
		for _, l := range lists {
			if l.CheckSignatureFrom(issuer) != nil {
				continue
			}
			found = true
			for _, r := range l.RevokedCertificateEntries {
				if r.SerialNumber.Cmp(c.SerialNumber) == 0 {
					return fmt.Errorf("%w: serial %s of %s", ErrRevoked, c.SerialNumber, issuer.Subject)
				}
			}
		}
		if !found {
			return fmt.Errorf("verify peer certificate: no revocation list of %s", issuer.Subject)
		}
	}
	return nil
}
