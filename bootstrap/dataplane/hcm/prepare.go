package hcm

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// prepare brings a request into the form that filters and routes see: normalised path, forwarding headers, request id.
// A request that may not go on gets a reply.
func (s *Stream) prepare() *reply {
	m, h := s.m, s.req.Header
	if m.underscores != 0 {
		for name := range h {
			if !strings.Contains(name, "_") {
				continue
			}
			if m.underscores == 1 {
				return &reply{status: http.StatusBadRequest, details: "http1.unexpected_underscore"}
			}
			delete(h, name)
		}
	}
	if s.authority == "" {
		return &reply{status: http.StatusBadRequest, details: "missing_host_header"}
	}
	if m.stripAnyPort {
		s.authority = stripPort(s.authority)
	}
	if !strings.HasPrefix(s.path, "/") && s.req.Method != http.MethodConnect && s.path != "*" {
		return &reply{status: http.StatusNotFound, details: "absolute_path_rejected"}
	}
	if rep := s.normalizePath(); rep != nil {
		return rep
	}
	s.scheme = "http"
	if s.conn.TLS != nil {
		s.scheme = "https"
	}
	s.forwarded()
	s.clientCert()
	if m.remoteAddress {
		for _, n := range internalHeaders {
			delete(h, n)
		}
	}
	if m.requestID {
		if _, ok := h["X-Request-Id"]; !ok || (s.edge && !m.keepRequestID) {
			h["X-Request-Id"] = []string{newRequestID()}
		}
	}
	return nil
}

// internalHeaders steer the router; clients beyond the edge may not set them.
var internalHeaders = []string{
	"X-Envoy-Retry-On", "X-Envoy-Max-Retries", "X-Envoy-Upstream-Rq-Timeout-Ms", "X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms",
	"X-Envoy-Retriable-Status-Codes", "X-Envoy-Decorator-Operation", "X-Envoy-Attempt-Count", "X-Envoy-Original-Path",
	"X-Envoy-External-Address", "X-Envoy-Internal",
}

// forwarded fills x-forwarded-for, -proto and -port and finds the client's address.
func (s *Stream) forwarded() {
	m, h := s.m, s.req.Header
	s.edge = m.remoteAddress
	if m.remoteAddress {
		s.remote = s.conn.Remote
		if xff := h.Values("X-Forwarded-For"); m.trustedHops > 0 && len(xff) > 0 {
			s.remote = hop(strings.Join(xff, ","), int(m.trustedHops), s.remote)
		}
		if !m.skipXFF {
			ip := s.conn.Remote.Addr().String()
			if prior := h.Values("X-Forwarded-For"); len(prior) > 0 {
				ip = strings.Join(prior, ",") + "," + ip
			}
			h["X-Forwarded-For"] = []string{ip}
		}
		if m.trustedHops == 0 || h.Get("X-Forwarded-Proto") == "" {
			h["X-Forwarded-Proto"] = []string{s.scheme}
		}
		h["X-Envoy-External-Address"] = []string{s.remote.Addr().String()}
	} else {
		if xff := h.Values("X-Forwarded-For"); len(xff) > 0 {
			s.remote = hop(strings.Join(xff, ","), int(m.trustedHops)+1, s.conn.Remote)
		}
		if h.Get("X-Forwarded-Proto") == "" {
			h["X-Forwarded-Proto"] = []string{s.scheme}
		}
	}
	if p := h.Get("X-Forwarded-Proto"); p == "https" || p == "http" {
		s.scheme = p
	}
	if m.appendPort {
		h["X-Forwarded-Port"] = []string{strconv.Itoa(int(s.conn.Local.Port()))}
	}
}

// hop returns the n-th address from the right of an x-forwarded-for list, or def.
func hop(list string, n int, def netip.AddrPort) netip.AddrPort {
	parts := strings.Split(list, ",")
	if n > len(parts) {
		return def
	}
	ip, err := netip.ParseAddr(strings.TrimSpace(parts[len(parts)-n]))
	if err != nil {
		return def
	}
	return netip.AddrPortFrom(ip.Unmap(), 0)
}

// clientCert treats x-forwarded-client-cert as the connection manager says.
func (s *Stream) clientCert() {
	const name = "X-Forwarded-Client-Cert"
	h := s.req.Header
	cert := s.conn.PeerCertificate()
	switch s.m.xfcc {
	case hcmv3.HttpConnectionManager_SANITIZE:
		delete(h, name)
		return
	case hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY:
		return
	case hcmv3.HttpConnectionManager_FORWARD_ONLY:
		if cert == nil {
			delete(h, name)
		}
		return
	}
	if cert == nil {
		delete(h, name)
		return
	}
	own := s.xfccElement()
	if prior := h.Get(name); prior != "" && s.m.xfcc == hcmv3.HttpConnectionManager_APPEND_FORWARD {
		own = prior + "," + own
	}
	h[name] = []string{own}
}

func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	var out [36]byte
	hex.Encode(out[:8], b[:4])
	hex.Encode(out[9:13], b[4:6])
	hex.Encode(out[14:18], b[6:8])
	hex.Encode(out[19:23], b[8:10])
	hex.Encode(out[24:], b[10:])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return string(out[:])
}
