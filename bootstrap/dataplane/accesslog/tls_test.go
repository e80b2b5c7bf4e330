package accesslog_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
)

func selfSigned(t *testing.T, names ...string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(0x0abc),
		Subject:      pkix.Name{CommonName: "a", Organization: []string{"ropes"}},
		NotBefore:    time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		NotAfter:     time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC),
		DNSNames:     []string{"a.example", "b.example"},
		IPAddresses:  []net.IP{net.IPv4(10, 0, 0, 1)},
	}
	for _, n := range names {
		u, err := url.Parse(n)
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = append(c.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestTLSOperators(t *testing.T) {
	peer := selfSigned(t, "spiffe://cluster.local/ns/a/sa/b", "spiffe://second")
	e := &accesslog.Entry{Downstream: accesslog.Downstream{TLS: &accesslog.TLS{
		State: &tls.ConnectionState{
			Version: tls.VersionTLS12, CipherSuite: tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, PeerCertificates: []*x509.Certificate{peer},
		},
		Local: selfSigned(t, "spiffe://local"),
	}}}
	e.Upstream.TLS = &accesslog.TLS{State: &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}}
	sum := sha256.Sum256(peer.Raw)
	for format, want := range map[string]string{
		"%DOWNSTREAM_PEER_URI_SAN%":         "spiffe://cluster.local/ns/a/sa/b,spiffe://second",
		"%DOWNSTREAM_LOCAL_URI_SAN%":        "spiffe://local",
		"%DOWNSTREAM_PEER_DNS_SAN%":         "a.example,b.example",
		"%DOWNSTREAM_PEER_IP_SAN%":          "10.0.0.1",
		"%DOWNSTREAM_PEER_SUBJECT%":         "CN=a,O=ropes",
		"%DOWNSTREAM_PEER_ISSUER%":          "CN=a,O=ropes",
		"%DOWNSTREAM_PEER_SERIAL%":          "0abc",
		"%DOWNSTREAM_PEER_FINGERPRINT_256%": hex.EncodeToString(sum[:]),
		"%DOWNSTREAM_PEER_CERT_V_START%":    "2026-01-02T03:04:05.000Z",
		"%DOWNSTREAM_PEER_CERT_V_END(%Y)%":  "2027",
		"%DOWNSTREAM_TLS_VERSION%":          "TLSv1.2",
		"%DOWNSTREAM_TLS_CIPHER%":           "ECDHE-ECDSA-AES128-GCM-SHA256",
		"%UPSTREAM_TLS_VERSION%":            "TLSv1.3",
		"%UPSTREAM_TLS_CIPHER%":             "TLS_AES_128_GCM_SHA256",
		"%UPSTREAM_PEER_SUBJECT%":           "-",
		"%UPSTREAM_LOCAL_URI_SAN%":          "-",
		"%UPSTREAM_PEER_CERT_V_START%":      "-",
	} {
		if got := string(text(t, format).Format(e)); got != want {
			t.Errorf("%s: got %q, want %q", format, got, want)
		}
	}
	escaped := string(text(t, "%DOWNSTREAM_PEER_CERT%").Format(e))
	plain, err := url.PathUnescape(escaped)
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode([]byte(plain)); block == nil || string(block.Bytes) != string(peer.Raw) {
		t.Errorf("the certificate does not survive: %q", escaped)
	}
}

func FuzzCompileText(f *testing.F) {
	f.Add(accesslog.DefaultText)
	f.Add("%START_TIME(%E3S %5f)%%%%REQ(a?b):3%%FILTER_STATE(a:FIELD:b)%")
	f.Fuzz(func(t *testing.T, format string) {
		c, err := accesslog.CompileText(format)
		if err != nil {
			return
		}
		c.Format(request())
		c.Format(connection())
		c.Format(&accesslog.Entry{})
	})
}
