package tlsctx

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// leaf issues a certificate for names and gives it as PEM with its key, and parsed.
func (c *ca) leaf(t *testing.T, dns string, serial int64) (cert, key []byte, parsed *x509.Certificate) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{dns}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}, EmailAddresses: []string{"a@b.example"},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, &k.PublicKey, c.key)
	if err != nil {
		t.Fatal(err)
	}
	kd, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd}), parsed
}

func exactly(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

// TestValidation has a client check a server's certificate in the ways that istiod can ask for.
func TestValidation(t *testing.T) {
	own, other := newCA(t), newCA(t)
	cert, key, parsed := own.leaf(t, "*.example.com", 7)
	hash, spki := sha256.Sum256(parsed.Raw), sha256.Sum256(parsed.RawSubjectPublicKeyInfo)
	colons := strings.ToUpper(strings.Join(chunks(hex.EncodeToString(hash[:])), ":"))
	wrong := strings.Repeat("00", 32)
	typed := func(kind tlsv3.SubjectAltNameMatcher_SanType, s string) []*tlsv3.SubjectAltNameMatcher {
		return []*tlsv3.SubjectAltNameMatcher{{SanType: kind, Matcher: exactly(s)}}
	}
	trusted, foreign := inline(own.pem), inline(other.pem)
	for name, tc := range map[string]struct {
		v    *tlsv3.CertificateValidationContext
		want error // nil for success
		any  bool  // some error
	}{
		"trusted":             {v: &tlsv3.CertificateValidationContext{TrustedCa: trusted}},
		"other authority":     {v: &tlsv3.CertificateValidationContext{TrustedCa: foreign}, any: true},
		"wildcard name":       {v: &tlsv3.CertificateValidationContext{TrustedCa: trusted, MatchSubjectAltNames: []*matcherv3.StringMatcher{exactly("a.example.com")}}},
		"wildcard, two deep":  {v: &tlsv3.CertificateValidationContext{TrustedCa: trusted, MatchSubjectAltNames: []*matcherv3.StringMatcher{exactly("a.b.example.com")}}, want: ErrPeerIdentity},
		"address":             {v: &tlsv3.CertificateValidationContext{TrustedCa: trusted, MatchSubjectAltNames: []*matcherv3.StringMatcher{exactly("10.0.0.1")}}},
		"typed DNS":           {v: &tlsv3.CertificateValidationContext{TrustedCa: trusted, MatchTypedSubjectAltNames: typed(tlsv3.SubjectAltNameMatcher_DNS, "a.example.com")}},
		"typed URI":           {v: &tlsv3.CertificateValidationContext{TrustedCa: trusted, MatchTypedSubjectAltNames: typed(tlsv3.SubjectAltNameMatcher_URI, "a.example.com")}, want: ErrPeerIdentity},
		"typed address":       {v: &tlsv3.CertificateValidationContext{TrustedCa: trusted, MatchTypedSubjectAltNames: typed(tlsv3.SubjectAltNameMatcher_IP_ADDRESS, "10.0.0.1")}},
		"typed email":         {v: &tlsv3.CertificateValidationContext{TrustedCa: trusted, MatchTypedSubjectAltNames: typed(tlsv3.SubjectAltNameMatcher_EMAIL, "a@b.example")}},
		"hash":                {v: &tlsv3.CertificateValidationContext{VerifyCertificateHash: []string{wrong, hex.EncodeToString(hash[:])}}},
		"hash with colons":    {v: &tlsv3.CertificateValidationContext{VerifyCertificateHash: []string{colons}}},
		"other hash":          {v: &tlsv3.CertificateValidationContext{TrustedCa: trusted, VerifyCertificateHash: []string{wrong}}, want: ErrPin},
		"public key":          {v: &tlsv3.CertificateValidationContext{VerifyCertificateSpki: []string{base64.StdEncoding.EncodeToString(spki[:])}}},
		"other public key":    {v: &tlsv3.CertificateValidationContext{VerifyCertificateSpki: []string{base64.StdEncoding.EncodeToString(hash[:])}}, want: ErrPin},
		"hash or public key":  {v: &tlsv3.CertificateValidationContext{VerifyCertificateHash: []string{wrong}, VerifyCertificateSpki: []string{base64.StdEncoding.EncodeToString(spki[:])}}},
		"untrusted is good":   {v: &tlsv3.CertificateValidationContext{TrustedCa: foreign, TrustChainVerification: tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED, MatchSubjectAltNames: []*matcherv3.StringMatcher{exactly("x")}}},
		"nothing is asked":    {v: &tlsv3.CertificateValidationContext{}},
		"chain but wrong pin": {v: &tlsv3.CertificateValidationContext{TrustedCa: foreign, VerifyCertificateSpki: []string{base64.StdEncoding.EncodeToString(spki[:])}}, any: true},
	} {
		srv, err := CompileDownstream(&tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsCertificates: []*tlsv3.TlsCertificate{{CertificateChain: inline(cert), PrivateKey: inline(key)}},
		}}, NewStore())
		if err != nil {
			t.Fatal(err)
		}
		cli, err := CompileUpstream(&tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: tc.v},
		}}, NewStore())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, _, _, cerr := shake(t, srv, cli, Options{})
		if (cerr != nil) != (tc.any || tc.want != nil) || tc.want != nil && !errors.Is(cerr, tc.want) {
			t.Errorf("%s: %v", name, cerr)
		}
	}
}

func chunks(s string) []string {
	var out []string
	for ; len(s) > 0; s = s[2:] {
		out = append(out, s[:2])
	}
	return out
}

// TestCombinedContext: what stands in the configuration adds to what SDS gives.
func TestCombinedContext(t *testing.T) {
	ca := newRevoker(t)
	own := &issuerOf{ca}
	mesh := own.ca()
	good, revoked := own.secret(t, 8), own.secret(t, 7)
	_, root := mesh.identity(t, "spiffe://d/x")
	crl := ca.list(t, 7)
	for name, tc := range map[string]struct {
		cert *Secret
		ok   bool
	}{"not on the list": {good, true}, "on the list": {revoked, false}} {
		s := store(nil, root)
		c := commonContext("")
		c.TlsCertificateSdsSecretConfigs = nil
		c.GetCombinedValidationContext().DefaultValidationContext.Crl = inline(crl)
		cli, err := CompileUpstream(&tlsv3.UpstreamTlsContext{CommonTlsContext: c}, s)
		if err != nil {
			t.Fatal(err)
		}
		plain := &tlsv3.CommonTlsContext{TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{sds("default")}}
		srv, err := CompileDownstream(&tlsv3.DownstreamTlsContext{CommonTlsContext: plain}, store(tc.cert, nil))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, cerr := shake(t, srv, cli, Options{}); (cerr == nil) != tc.ok || !tc.ok && !errors.Is(cerr, ErrRevoked) {
			t.Errorf("%s: %v", name, cerr)
		}
	}
}

// issuerOf issues leaves of a revoker.
type issuerOf struct{ revoker }

func (c *issuerOf) ca() *ca {
	return &ca{c.cert, c.key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})}
}

func (c *issuerOf) secret(t *testing.T, serial int64) *Secret {
	t.Helper()
	cert, key, _ := c.ca().leaf(t, "x", serial)
	s, err := ParseSecret(&tlsv3.Secret{Name: "default", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(cert), PrivateKey: inline(key),
	}}}, "1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRevocationListsOutOfTime(t *testing.T) {
	ca := newRevoker(t)
	lists, err := parseCRLs(ca.list(t))
	if err != nil {
		t.Fatal(err)
	}
	chain := []*x509.Certificate{{SerialNumber: big.NewInt(9)}, ca.cert}
	if err := checkRevocation(lists, chain, time.Now().Add(2*time.Hour)); err == nil || !strings.Contains(err.Error(), "out of its time") {
		t.Errorf("after next_update: %v", err)
	}
	if err := checkLeaf(lists, chain, time.Now()); err != nil {
		t.Errorf("leaf only: %v", err)
	}
}

func TestParameters(t *testing.T) {
	mesh := newCA(t)
	cert, root := mesh.identity(t, "spiffe://d/b")
	with := func(p *tlsv3.TlsParameters) *Server {
		c := commonContext("")
		c.TlsParams = p
		s, err := CompileDownstream(&tlsv3.DownstreamTlsContext{RequireClientCertificate: wrapperspb.Bool(true), CommonTlsContext: c}, store(cert, root))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	cli := client(t, store(mesh.identity(t, "spiffe://d/a")), "")
	s, _, serr, _ := shake(t, with(&tlsv3.TlsParameters{TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, CipherSuites: []string{"[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-RSA-AES128-GCM-SHA256]"}}), cli, Options{})
	if serr != nil || s.Version != tls.VersionTLS12 || s.CipherSuite != tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 {
		t.Errorf("%v: version %x cipher %x", serr, s.Version, s.CipherSuite)
	}
	s, _, serr, _ = shake(t, with(&tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, EcdhCurves: []string{"P-384"}}), cli, Options{})
	if serr != nil || s.Version != tls.VersionTLS13 || s.CurveID != tls.CurveP384 {
		t.Errorf("%v: version %x curve %v", serr, s.Version, s.CurveID)
	}
	for _, tc := range []struct {
		p    *tlsv3.TlsParameters
		want string
	}{
		{&tlsv3.TlsParameters{EcdhCurves: []string{"X25519Kyber768Draft00"}}, "ecdh_curves"},
		{&tlsv3.TlsParameters{CipherSuites: []string{"TLS_AES_128_GCM_SHA256"}}, "cipher_suites"},
		{&tlsv3.TlsParameters{SignatureAlgorithms: []string{"rsa_pss_rsae_sha256"}}, "signature_algorithms"},
		{&tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_2}, "above the maximum"},
	} {
		if _, err := CompileUpstream(&tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{TlsParams: tc.p}}, NewStore()); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v", tc.p, err)
		}
	}
	for _, v := range []*tlsv3.CertificateValidationContext{
		{MatchSubjectAltNames: []*matcherv3.StringMatcher{exactly("x")}},
		{VerifyCertificateHash: []string{"xyz"}},
		{VerifyCertificateSpki: []string{"eA=="}},
		{Crl: inline(newRevoker(t).list(t))},
		{MaxVerifyDepth: wrapperspb.UInt32(1)},
		{AllowExpiredCertificate: true},
		{RequireSignedCertificateTimestamp: wrapperspb.Bool(true)},
	} {
		if _, err := CompileUpstream(&tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: v},
		}}, NewStore()); err == nil {
			t.Errorf("%v is accepted", v)
		}
	}
	if _, err := ParseSecret(&tlsv3.Secret{Name: "s", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		Password: inline([]byte("x")),
	}}}, "", time.Now()); err == nil || !strings.Contains(err.Error(), "password") {
		t.Errorf("key with a password: %v", err)
	}
}
