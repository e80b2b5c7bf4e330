package tlsctx

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"testing"
	"time"
)

// revoker is a CA that signs leaves and revocation lists.
type revoker struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newRevoker(t *testing.T) revoker {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign | x509.KeyUsageCertSign, SubjectKeyId: []byte{1},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return revoker{cert, key}
}

func (r revoker) list(t *testing.T, serials ...int64) []byte {
	t.Helper()
	tmpl := &x509.RevocationList{Number: big.NewInt(1), NextUpdate: time.Now().Add(time.Hour)}
	for _, s := range serials {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, r.cert, r.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

func TestRevocation(t *testing.T) {
	ca, other := newRevoker(t), newRevoker(t)
	chain := []*x509.Certificate{{SerialNumber: big.NewInt(7)}, ca.cert}
	for name, tt := range map[string]struct {
		lists   []byte
		revoked bool
		ok      bool
	}{
		"no list":                 {lists: nil, ok: true},
		"an empty file":           {lists: []byte("\n"), ok: true},
		"another one is revoked":  {lists: ca.list(t, 8), ok: true},
		"the leaf is revoked":     {lists: ca.list(t, 8, 7), revoked: true},
		"a list of another CA":    {lists: other.list(t, 7)},
		"two lists, one matching": {lists: append(other.list(t), ca.list(t, 7)...), revoked: true},
	} {
		lists, err := parseCRLs(tt.lists)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		err = checkRevocation(lists, chain, time.Now())
		if (err == nil) != tt.ok || errors.Is(err, ErrRevoked) != tt.revoked {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := parseCRLs(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte("x")})); err == nil {
		t.Error("a broken list was taken")
	}
}
