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
	// What the client takes away it takes away before anything is said of it.
	if !dropNominated(h) {
		return &reply{status: http.StatusBadRequest, details: "http1.connection_header_rejected"}
	}
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
	s.normalizeHost()
	if s.req.Method != http.MethodConnect {
		if !strings.HasPrefix(s.path, "/") && s.path != "*" {
			return &reply{status: http.StatusNotFound, details: "absolute_path_rejected"}
		}
		if rep := s.normalizePath(); rep != nil {
			return rep
		}
	}
	s.scheme = "http"
	if s.conn.TLS != nil {
		s.scheme = "https"
	}
	s.forwarded()
	s.clientCert()
	s.trust()
	appendVia(h, m.via)
	if m.requestID {
		if _, ok := h["X-Request-Id"]; !ok || (s.edge && !m.keepRequestID) {
			h["X-Request-Id"] = []string{newRequestID()}
		}
	}
	return nil
}

// maxNominated bounds the list in a connection header, as Envoy does.
const maxNominated = 9

// dropNominated removes the headers that a connection header names: they end here. It reports false for a list that is
// too long or names what tells where the request comes from or goes to.
func dropNominated(h http.Header) bool {
	n := 0
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = http.CanonicalHeaderKey(strings.Trim(name, " \t")); name == "" {
				continue
			}
			if n++; n > maxNominated || name[0] == ':' {
				return false
			}
			switch name {
			case "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto":
				return false
			case "Close", "Connection", "Keep-Alive", "Te", "Upgrade":
			default:
				delete(h, name)
			}
		}
	}
	return true
}

// edgeHeaders are for proxies among themselves; clients beyond the edge may not set them.
var edgeHeaders = []string{
	"X-Envoy-Decorator-Operation", "X-Envoy-Downstream-Service-Cluster", "X-Envoy-Downstream-Service-Node",
	"X-Envoy-Original-Path", "X-Envoy-Original-Host", "X-Envoy-Attempt-Count",
}

// steeringHeaders steer the router; only internal clients may set them.
var steeringHeaders = []string{
	retryOnHeader, retryGRPCHeader, retryMaxHeader, retryCodesHeader, retryNamesHeader, "X-Envoy-Upstream-Rq-Timeout-Ms",
	"X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms", "X-Envoy-Upstream-Rq-Timeout-Alt-Response", "X-Envoy-Expected-Rq-Timeout-Ms",
	"X-Envoy-Upstream-Alt-Stat-Name", "X-Envoy-Force-Trace", "X-Envoy-Ip-Tags", "X-Envoy-Original-Url",
	"X-Envoy-Hedge-On-Per-Try-Timeout", "X-Envoy-Internal",
}

// trust finds out whether the client is an internal one and takes from others the headers that they may not set.
func (s *Stream) trust() {
	h := s.req.Header
	if s.internal {
		h["X-Envoy-Internal"] = []string{"true"}
		return
	}
	for _, n := range steeringHeaders {
		delete(h, n)
	}
	if t := s.m.table.Load(); t != nil {
		for _, n := range t.internal {
			delete(h, n)
		}
	}
	if !s.edge {
		return
	}
	for _, n := range edgeHeaders {
		delete(h, n)
	}
	h["X-Envoy-External-Address"] = []string{s.remote.Addr().String()}
}

// normalizeHost takes from the authority what the connection manager is told to.
func (s *Stream) normalizeHost() {
	m := s.m
	if !m.stripAnyPort && !m.stripMatching && !m.stripDot || s.req.Method == http.MethodConnect {
		return
	}
	bare := stripPort(s.authority)
	port := s.authority[len(bare):]
	if m.stripDot {
		bare = strings.TrimSuffix(bare, ".")
	}
	if m.stripAnyPort || m.stripMatching && port == ":"+strconv.Itoa(int(s.conn.Local.Port())) {
		port = ""
	}
	s.authority = bare + port
}

func (m *Manager) isInternal(a netip.Addr) bool {
	for _, p := range m.internal {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// forwarded fills x-forwarded-for, -proto and -port and finds the client's address.
func (s *Stream) forwarded() {
	m, h := s.m, s.req.Header
	xff := h["X-Forwarded-For"]
	if m.remoteAddress {
		s.remote = s.conn.Remote
		s.internal = len(xff) == 0 && m.isInternal(s.remote.Addr())
		s.edge = !s.internal
		if m.trustedHops > 0 && len(xff) > 0 {
			s.remote = hop(strings.Join(xff, ","), int(m.trustedHops), s.remote)
		}
		if !m.skipXFF {
			ip := s.conn.Remote.Addr().String()
			if prior := h.Values("X-Forwarded-For"); len(prior) > 0 {
				ip = strings.Join(prior, ",") + "," + ip
			}
			h["X-Forwarded-For"] = []string{ip}
		}
		if m.trustedHops == 0 || first(h, "X-Forwarded-Proto") == "" {
			h["X-Forwarded-Proto"] = []string{s.scheme}
		}
	} else {
		if len(xff) > 0 {
			s.remote = hop(strings.Join(xff, ","), int(m.trustedHops)+1, s.conn.Remote)
			s.internal = len(xff) == 1 && !strings.Contains(xff[0], ",") && m.isInternal(s.remote.Addr())
		}
		if first(h, "X-Forwarded-Proto") == "" {
			h["X-Forwarded-Proto"] = []string{s.scheme}
		}
	}
	if p := first(h, "X-Forwarded-Proto"); p == "https" || p == "http" {
		s.scheme = p
	}
	if _, ok := h["X-Forwarded-Port"]; m.appendPort && (!ok || m.remoteAddress && m.trustedHops == 0) {
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
	if err != nil || ip.Zone() != "" {
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
	own := s.conn.ClientText(s.xfccElement)
	if prior := strings.Join(h[name], ","); prior != "" && s.m.xfcc == hcmv3.HttpConnectionManager_APPEND_FORWARD {
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
