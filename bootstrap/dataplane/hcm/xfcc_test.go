package hcm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

func certificate(t *testing.T, id string) *x509.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	u, err := url.Parse(id)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), URIs: []*url.URL{u}, DNSNames: []string{"a.example", "b.example"},
		Subject: pkix.Name{CommonName: `x"y`, Organization: []string{"o"}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

func TestForwardedClientCert(t *testing.T) {
	peer, issuer, own := certificate(t, "spiffe://d/client"), certificate(t, "spiffe://d/ca"), certificate(t, "spiffe://d/server")
	sum := sha256.Sum256(peer.Raw)
	base := "By=spiffe://d/server;Hash=" + hex.EncodeToString(sum[:])
	all := base + `;Cert="` + network.EscapedPEM(peer) + `";Chain="` + network.EscapedPEM(peer, issuer) + `";Subject="CN=x\"y,O=o";` +
		"URI=spiffe://d/client;DNS=a.example;DNS=b.example"
	if strings.ContainsAny(network.EscapedPEM(peer), "+/= \n") || !strings.HasPrefix(network.EscapedPEM(peer), "-----BEGIN%20CERTIFICATE-----%0A") {
		t.Errorf("escaped PEM: %s", network.EscapedPEM(peer))
	}
	everything := &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{
		Subject: wrapperspb.Bool(true), Cert: true, Chain: true, Dns: true, Uri: true,
	}
	for _, tc := range []struct {
		mode     hcmv3.HttpConnectionManager_ForwardClientCertDetails
		set      *hcmv3.HttpConnectionManager_SetCurrentClientCertDetails
		mtls     bool
		in, want string
	}{
		{hcmv3.HttpConnectionManager_SANITIZE, everything, true, "Hash=1", ""},
		{hcmv3.HttpConnectionManager_FORWARD_ONLY, everything, true, "Hash=1", "Hash=1"},
		{hcmv3.HttpConnectionManager_FORWARD_ONLY, everything, false, "Hash=1", ""},
		{hcmv3.HttpConnectionManager_APPEND_FORWARD, nil, true, "Hash=1", "Hash=1," + base},
		{hcmv3.HttpConnectionManager_APPEND_FORWARD, nil, true, "Hash=1|Hash=2,Hash=3", "Hash=1,Hash=2,Hash=3," + base},
		{hcmv3.HttpConnectionManager_APPEND_FORWARD, nil, false, "Hash=1", ""},
		{hcmv3.HttpConnectionManager_SANITIZE_SET, everything, true, "Hash=1", all},
		{hcmv3.HttpConnectionManager_SANITIZE_SET, everything, false, "Hash=1", ""},
		{hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY, everything, false, "Hash=1", "Hash=1"},
	} {
		c := &network.Conn{}
		if tc.mtls {
			c.SetTLS(tls.ConnectionState{PeerCertificates: []*x509.Certificate{peer, issuer}})
			c.SetLocalCertificate(own)
		}
		s := &Stream{m: &Manager{xfcc: tc.mode, xfccSet: tc.set}, conn: c, req: &http.Request{Header: http.Header{}}}
		s.req.Header["X-Forwarded-Client-Cert"] = strings.Split(tc.in, "|")
		s.clientCert()
		if got := s.req.Header.Get("X-Forwarded-Client-Cert"); got != tc.want {
			t.Errorf("%v, mTLS %t: %q, want %q", tc.mode, tc.mtls, got, tc.want)
		}
	}
}
