package tlsctx

import (
	"crypto/tls"
	"crypto/x509"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

var cipherIDs = map[string]uint16{
	"ECDHE-ECDSA-AES256-GCM-SHA384": tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-RSA-AES256-GCM-SHA384":   tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-ECDSA-AES128-GCM-SHA256": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-RSA-AES128-GCM-SHA256":   tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-ECDSA-CHACHA20-POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-RSA-CHACHA20-POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-ECDSA-AES128-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
	"ECDHE-RSA-AES128-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	"ECDHE-ECDSA-AES256-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,
	"ECDHE-RSA-AES256-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
	"AES256-GCM-SHA384":             tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	"AES128-GCM-SHA256":             tls.TLS_RSA_WITH_AES_128_GCM_SHA256,
	"AES128-SHA":                    tls.TLS_RSA_WITH_AES_128_CBC_SHA,
	"AES256-SHA":                    tls.TLS_RSA_WITH_AES_256_CBC_SHA,
}

func (c *common) setParams(p *tlsv3.TlsParameters) error {
	const known = "tls_minimum_protocol_version tls_maximum_protocol_version cipher_suites"
	if err := fields.Check(p, known); err != nil {
		return err
	}
	c.min = version(p.GetTlsMinimumProtocolVersion(), tls.VersionTLS12)
	c.max = version(p.GetTlsMaximumProtocolVersion(), tls.VersionTLS13)
	for _, entry := range p.GetCipherSuites() {
		// BoringSSL groups equal-preference ciphers as [A|B]; order among them is free.
		for name := range strings.SplitSeq(strings.Trim(entry, "[]"), "|") {
			id, ok := cipherIDs[name]
			if !ok {
				return fields.Unsupported(p, "cipher_suites", "cipher "+name)
			}
			c.ciphers = append(c.ciphers, id)
		}
	}
	return nil
}

func version(v tlsv3.TlsParameters_TlsProtocol, auto uint16) uint16 {
	switch v {
	case tlsv3.TlsParameters_TLSv1_0:
		return tls.VersionTLS10
	case tlsv3.TlsParameters_TLSv1_1:
		return tls.VersionTLS11
	case tlsv3.TlsParameters_TLSv1_2:
		return tls.VersionTLS12
	case tlsv3.TlsParameters_TLSv1_3:
		return tls.VersionTLS13
	default:
		return auto
	}
}

type sanMatcher func(*x509.Certificate) bool

// compileSANs gives nil when the context names no SAN, which accepts every name.
func compileSANs(v *tlsv3.CertificateValidationContext) (sanMatcher, error) {
	var all []sanMatcher
	//nolint:staticcheck // istiod still fills the deprecated list.
	for _, m := range v.GetMatchSubjectAltNames() {
		s, err := match.Compile(m)
		if err != nil {
			return nil, err
		}
		all = append(all, func(c *x509.Certificate) bool { return anySAN(c, s) })
	}
	for _, m := range v.GetMatchTypedSubjectAltNames() {
		s, err := match.Compile(m.GetMatcher())
		if err != nil {
			return nil, err
		}
		typed, err := typedSAN(m, s)
		if err != nil {
			return nil, err
		}
		all = append(all, typed)
	}
	if len(all) == 0 {
		return nil, nil
	}
	return func(c *x509.Certificate) bool {
		for _, m := range all {
			if m(c) {
				return true
			}
		}
		return false
	}, nil
}

func typedSAN(m *tlsv3.SubjectAltNameMatcher, s match.String) (sanMatcher, error) {
	switch m.GetSanType() {
	case tlsv3.SubjectAltNameMatcher_URI:
		return func(c *x509.Certificate) bool {
			for _, u := range c.URIs {
				if s(u.String()) {
					return true
				}
			}
			return false
		}, nil
	case tlsv3.SubjectAltNameMatcher_DNS:
		return func(c *x509.Certificate) bool {
			for _, d := range c.DNSNames {
				if s(d) {
					return true
				}
			}
			return false
		}, nil
	case tlsv3.SubjectAltNameMatcher_IP_ADDRESS:
		return func(c *x509.Certificate) bool {
			for _, ip := range c.IPAddresses {
				if s(ip.String()) {
					return true
				}
			}
			return false
		}, nil
	case tlsv3.SubjectAltNameMatcher_EMAIL:
		return func(c *x509.Certificate) bool {
			for _, e := range c.EmailAddresses {
				if s(e) {
					return true
				}
			}
			return false
		}, nil
	default:
		return nil, fields.Unsupported(m, "san_type", m.GetSanType().String())
	}
}
