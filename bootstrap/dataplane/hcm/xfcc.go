package hcm

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

// xfccElement describes the client's certificate as an element of x-forwarded-client-cert. The client has one.
func (s *Stream) xfccElement() string {
	cert := s.conn.PeerCertificate()
	var parts []string
	for _, u := range s.conn.LocalURIs() {
		parts = append(parts, "By="+u)
	}
	sum := sha256.Sum256(cert.Raw)
	parts = append(parts, "Hash="+hex.EncodeToString(sum[:]))
	set := s.m.xfccSet
	if set.GetCert() {
		parts = append(parts, `Cert="`+network.EscapedPEM(cert)+`"`)
	}
	if set.GetChain() {
		parts = append(parts, `Chain="`+network.EscapedPEM(s.conn.TLS.PeerCertificates...)+`"`)
	}
	if set.GetSubject().GetValue() {
		parts = append(parts, `Subject="`+s.conn.PeerSubject()+`"`)
	}
	if set.GetUri() {
		for _, u := range s.conn.PeerURIs() {
			parts = append(parts, "URI="+u)
		}
	}
	if set.GetDns() {
		for _, d := range s.conn.PeerDNS() {
			parts = append(parts, "DNS="+d)
		}
	}
	return strings.Join(parts, ";")
}
