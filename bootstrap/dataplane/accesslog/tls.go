package accesslog

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net"
	"net/url"
	"strings"
	"time"
)

// certificates registers the operators on one side's TLS connection.
func certificates(side string, of func(*Entry) *TLS) {
	peer := func(e *Entry) *x509.Certificate { return of(e).peer() }
	for suffix, get := range map[string]func(*tls.ConnectionState) string{
		"TLS_VERSION": func(s *tls.ConnectionState) string { return versions[s.Version] },
		"TLS_CIPHER":  func(s *tls.ConnectionState) string { return cipher(s.CipherSuite) },
	} {
		operators[side+"_"+suffix] = plain(str(func(e *Entry) string {
			if s := of(e).state(); s != nil {
				return get(s)
			}
			return ""
		}))
	}
	for suffix, get := range map[string]func(*x509.Certificate) string{
		"URI_SAN": uriNames,
		"DNS_SAN": func(c *x509.Certificate) string { return strings.Join(c.DNSNames, ",") },
		"IP_SAN":  addressNames,
		"SUBJECT": func(c *x509.Certificate) string { return c.Subject.String() },
	} {
		certificate(side+"_PEER_"+suffix, peer, get)
		certificate(side+"_LOCAL_"+suffix, func(e *Entry) *x509.Certificate { return of(e).local() }, get)
	}
	certificate(side+"_PEER_ISSUER", peer, func(c *x509.Certificate) string { return c.Issuer.String() })
	certificate(side+"_PEER_SERIAL", peer, func(c *x509.Certificate) string { return hex.EncodeToString(c.SerialNumber.Bytes()) })
	certificate(side+"_PEER_FINGERPRINT_256", peer, func(c *x509.Certificate) string {
		sum := sha256.Sum256(c.Raw)
		return hex.EncodeToString(sum[:])
	})
	certificate(side+"_PEER_FINGERPRINT_1", peer, func(c *x509.Certificate) string {
		sum := sha1.Sum(c.Raw)
		return hex.EncodeToString(sum[:])
	})
	certificate(side+"_PEER_CERT", peer, func(c *x509.Certificate) string {
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		return strings.ReplaceAll(url.QueryEscape(string(block)), "+", "%20")
	})
	for suffix, get := range map[string]func(*x509.Certificate) time.Time{
		"START": func(c *x509.Certificate) time.Time { return c.NotBefore },
		"END":   func(c *x509.Certificate) time.Time { return c.NotAfter },
	} {
		operators[side+"_PEER_CERT_V_"+suffix] = definition{argument: optional, build: timeOperator(func(e *Entry) time.Time {
			if c := peer(e); c != nil {
				return get(c)
			}
			return time.Time{}
		}, time.UTC)}
	}
}

func certificate(name string, of func(*Entry) *x509.Certificate, get func(*x509.Certificate) string) {
	operators[name] = plain(str(func(e *Entry) string {
		if c := of(e); c != nil {
			return get(c)
		}
		return ""
	}))
}

func uriNames(c *x509.Certificate) string {
	if len(c.URIs) == 1 {
		return c.URIs[0].String()
	}
	names := make([]string, len(c.URIs))
	for i, u := range c.URIs {
		names[i] = u.String()
	}
	return strings.Join(names, ",")
}

func addressNames(c *x509.Certificate) string {
	names := make([]string, len(c.IPAddresses))
	for i, a := range c.IPAddresses {
		names[i] = net.IP.String(a)
	}
	return strings.Join(names, ",")
}

var versions = map[uint16]string{
	tls.VersionTLS10: "TLSv1",
	tls.VersionTLS11: "TLSv1.1",
	tls.VersionTLS12: "TLSv1.2",
	tls.VersionTLS13: "TLSv1.3",
}

// ciphers are OpenSSL's names where they differ from the standard's.
var ciphers = map[uint16]string{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:       "ECDHE-ECDSA-AES128-GCM-SHA256",
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:       "ECDHE-ECDSA-AES256-GCM-SHA384",
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: "ECDHE-ECDSA-CHACHA20-POLY1305",
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA:          "ECDHE-ECDSA-AES128-SHA",
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA:          "ECDHE-ECDSA-AES256-SHA",
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:         "ECDHE-RSA-AES128-GCM-SHA256",
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:         "ECDHE-RSA-AES256-GCM-SHA384",
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:   "ECDHE-RSA-CHACHA20-POLY1305",
	tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA:            "ECDHE-RSA-AES128-SHA",
	tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA:            "ECDHE-RSA-AES256-SHA",
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256:               "AES128-GCM-SHA256",
	tls.TLS_RSA_WITH_AES_256_GCM_SHA384:               "AES256-GCM-SHA384",
	tls.TLS_RSA_WITH_AES_128_CBC_SHA:                  "AES128-SHA",
	tls.TLS_RSA_WITH_AES_256_CBC_SHA:                  "AES256-SHA",
}

func cipher(id uint16) string {
	if name, ok := ciphers[id]; ok {
		return name
	}
	return tls.CipherSuiteName(id)
}
