package curl

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"
)

// sayRequest shows the head of the request, as it went out.
func (t *transfer) sayRequest(req *http.Request) {
	if !t.o.verbose {
		return
	}
	t.mu.Lock()
	sent := t.sent
	info := t.info
	t.mu.Unlock()
	proto := "HTTP/1.1"
	if t.o.prior || info != nil && info.state != nil && info.state.NegotiatedProtocol == "h2" {
		proto = "HTTP/2"
	}
	t.say('>', "%s %s %s", req.Method, req.URL.RequestURI(), proto)
	if proto == "HTTP/2" {
		t.say('>', "Host: %s", req.Host)
	}
	for _, line := range sent {
		if !strings.HasPrefix(line, ":") {
			t.say('>', "%s", line)
		}
	}
	t.say('>', "")
}

// describeTLS shows what the handshake came to.
func (c *client) describeTLS(info *connInfo) {
	cs := info.state
	if !c.o.verbose || cs == nil {
		return
	}
	c.say('*', "SSL connection using %s / %s", strings.Replace(tls.VersionName(cs.Version), "TLS 1.", "TLSv1.", 1), tls.CipherSuiteName(cs.CipherSuite))
	if cs.NegotiatedProtocol != "" {
		c.say('*', "ALPN: server accepted %s", cs.NegotiatedProtocol)
	} else {
		c.say('*', "ALPN: server did not agree on a protocol. Uses default.")
	}
	c.say('*', "Server certificate:")
	c.describeCertificate(cs.PeerCertificates[0])
	switch {
	case info.verify == nil:
		c.say('*', " SSL certificate verify ok.")
	case c.o.insecure:
		c.say('*', " SSL certificate verify result: %v, continuing anyway.", info.verify)
	default:
		c.say('*', " SSL certificate verify result: %v", info.verify)
	}
}

// describeCertificate shows one certificate, its SPIFFE identity included.
func (c *client) describeCertificate(cert *x509.Certificate) {
	const layout = "Jan _2 15:04:05 2006 GMT"
	c.say('*', " subject: %s", cert.Subject)
	c.say('*', " start date: %s", cert.NotBefore.UTC().Format(layout))
	c.say('*', " expire date: %s", cert.NotAfter.UTC().Format(layout))
	var names []string
	for _, n := range cert.DNSNames {
		names = append(names, "DNS:"+n)
	}
	for _, ip := range cert.IPAddresses {
		names = append(names, "IP Address:"+ip.String())
	}
	for _, u := range cert.URIs {
		names = append(names, "URI:"+u.String())
	}
	if len(names) > 0 {
		c.say('*', " subjectAltName: %s", strings.Join(names, ", "))
	}
	c.say('*', " issuer: %s", cert.Issuer)
}
