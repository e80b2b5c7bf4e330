package tlsctx

import (
	"crypto/x509"
	"slices"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

type sanMatcher func(*x509.Certificate) bool

// compileSANs gives an empty list when the context names no SAN, which accepts every name.
func compileSANs(v *tlsv3.CertificateValidationContext) ([]sanMatcher, error) {
	var all []sanMatcher
	//nolint:staticcheck // istiod still fills the deprecated list.
	for _, m := range v.GetMatchSubjectAltNames() {
		s, dns, err := compileSAN(m)
		if err != nil {
			return nil, err
		}
		all = append(all, func(c *x509.Certificate) bool {
			return slices.ContainsFunc(uris(c), s) || slices.ContainsFunc(c.DNSNames, dns) || slices.ContainsFunc(ips(c), s) ||
				slices.ContainsFunc(c.EmailAddresses, s)
		})
	}
	for _, m := range v.GetMatchTypedSubjectAltNames() {
		if err := fields.Check(m, "san_type matcher"); err != nil {
			return nil, err
		}
		s, dns, err := compileSAN(m.GetMatcher())
		if err != nil {
			return nil, err
		}
		var typed sanMatcher
		switch m.GetSanType() {
		case tlsv3.SubjectAltNameMatcher_URI:
			typed = func(c *x509.Certificate) bool { return slices.ContainsFunc(uris(c), s) }
		case tlsv3.SubjectAltNameMatcher_DNS:
			typed = func(c *x509.Certificate) bool { return slices.ContainsFunc(c.DNSNames, dns) }
		case tlsv3.SubjectAltNameMatcher_IP_ADDRESS:
			typed = func(c *x509.Certificate) bool { return slices.ContainsFunc(ips(c), s) }
		case tlsv3.SubjectAltNameMatcher_EMAIL:
			typed = func(c *x509.Certificate) bool { return slices.ContainsFunc(c.EmailAddresses, s) }
		default:
			return nil, fields.Unsupported(m, "san_type", m.GetSanType().String())
		}
		all = append(all, typed)
	}
	return all, nil
}

// compileSAN compiles m for names of any kind, and for DNS names, of which one in a certificate may be a wildcard that
// covers an exact name.
func compileSAN(m *matcherv3.StringMatcher) (s, dns match.String, err error) {
	if s, err = match.Compile(m); err != nil {
		return nil, nil, err
	}
	if _, exact := m.GetMatchPattern().(*matcherv3.StringMatcher_Exact); exact {
		return s, func(san string) bool { return hostMatches(san, m.GetExact()) }, nil
	}
	return s, s, nil
}

func uris(c *x509.Certificate) []string {
	out := make([]string, len(c.URIs))
	for i, u := range c.URIs {
		out[i] = u.String()
	}
	return out
}

func ips(c *x509.Certificate) []string {
	out := make([]string, len(c.IPAddresses))
	for i, ip := range c.IPAddresses {
		out[i] = ip.String()
	}
	return out
}

// anySAN reports whether some name of the certificate matches.
func anySAN(c *x509.Certificate, m match.String) bool {
	return slices.ContainsFunc(uris(c), m) || slices.ContainsFunc(c.DNSNames, m) || slices.ContainsFunc(ips(c), m)
}
