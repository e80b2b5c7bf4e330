package listener

import "crypto/tls"

// secured counts what was agreed on in a handshake, under Envoy's names.
func (s *connStats) secured(st *tls.ConnectionState) {
	count := func(name string) { s.registry.Counter(s.scope, "ssl."+name).Inc() }
	if st.DidResume {
		count("session_reused")
	}
	if len(st.PeerCertificates) == 0 {
		count("no_certificate")
	}
	count("versions." + map[uint16]string{
		tls.VersionTLS10: "TLSv1", tls.VersionTLS11: "TLSv1.1", tls.VersionTLS12: "TLSv1.2", tls.VersionTLS13: "TLSv1.3",
	}[st.Version])
	count("ciphers." + tls.CipherSuiteName(st.CipherSuite))
	if st.CurveID != 0 {
		count("curves." + st.CurveID.String())
	}
}
