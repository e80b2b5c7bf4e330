package hcm

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/http1"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tracing"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// Stream is one request with its response on the way through the filters.
type Stream struct {
	m    *Manager
	conn *network.Conn
	w    http.ResponseWriter
	req  *http.Request
	ctx  context.Context //nolint:containedctx // it bounds what the value itself started, not one call
	life streamContext   // what ctx is
	h1   h1Response      // what w is over HTTP/1

	start     time.Time
	idle      *time.Timer // stream_idle_timeout, nil for none
	idleFor   time.Duration
	bound     *time.Timer // max_stream_duration, nil for none
	authority string      // :authority as it goes upstream
	path      string      // :path with query
	original  string      // :path before rewriting, when it was
	scheme    string
	remote    netip.AddrPort // the client, after x-forwarded-for
	edge      bool
	internal  bool // the client is trusted to steer the router

	table    *RouteTable
	names    http1.Names // of the request's headers, where they are kept
	upgrade  string      // the protocol that the client switches to, "" for none
	skip     uint64      // filters, by index, that the route has switched off
	route    *route
	weighted *weightedCluster
	cluster  *cluster.Cluster
	clusterN string
	host     *cluster.Endpoint
	alpn     []string
	trace    *upstream.Trace // of the latest attempt

	firstTrace upstream.Trace
	attempts   int
	sticky     *session
	dynamic    string   // the host that the request names, for clusters that take any
	cookies    []string // to set with the response

	downPeer, upPeer *peer.Info
	metadata         map[string]map[string]any
	span, upSpan     *tracing.Span // of the request and of the latest attempt, nil where there are none
	decorated        bool          // the client's proxy has named the operation
	messages         *messages     // of a gRPC call that is counted, else nil

	status        int
	sent          uint64
	received      countingBody
	respHeader    http.Header
	respTrailer   http.Header
	flags         accesslog.Flags
	details       string
	failure       string    // upstream transport failure
	upStart       time.Time // the router began
	end           time.Time
	wroteHeader   bool
	cachedEntry   *accesslog.Entry
	noHeaders     bool        // suppress x-envoy headers
	cors          *corsPolicy // that is in force for the request
	origin        string
	web           *webCall // of a gRPC-Web client
	requestLength int64
	onResponse    []func(http.Header)
}

// reply is a response made here instead of upstream.
type reply struct {
	status  int
	body    string
	header  http.Header
	flags   accesslog.Flags
	details string
	grpc    string // status for gRPC clients, where it is not the one that follows from status
}

// headerValues gives all values of a header or pseudo-header, for matchers. The name is lower case.
func (s *Stream) headerValues(name string) []string {
	switch name {
	case ":path":
		return []string{s.path}
	case ":authority", "host":
		return []string{s.authority}
	case ":method":
		return []string{s.req.Method}
	case ":scheme":
		return []string{s.scheme}
	}
	return s.req.Header[http.CanonicalHeaderKey(name)]
}

// The methods below let access rules look at the request (rbac.Request).

// Header implements rbac.Request.
func (s *Stream) Header(name string) []string { return s.headerValues(name) }

// Path implements rbac.Request.
func (s *Stream) Path() string { return s.path }

// SourceIP implements rbac.Request.
func (s *Stream) SourceIP() netip.Addr { return s.conn.Direct.Addr() }

// RemoteIP implements rbac.Request.
func (s *Stream) RemoteIP() netip.Addr { return s.remote.Addr() }

// DestinationIP implements rbac.Request.
func (s *Stream) DestinationIP() netip.Addr { return s.conn.Local.Addr() }

// DestinationPort implements rbac.Request.
func (s *Stream) DestinationPort() uint32 { return uint32(s.conn.Local.Port()) }

// PeerURISANs implements rbac.Request.
func (s *Stream) PeerURISANs() []string { return s.conn.PeerURIs() }

// PeerDNSSANs implements rbac.Request.
func (s *Stream) PeerDNSSANs() []string { return s.conn.PeerDNS() }

// PeerSubject implements rbac.Request.
func (s *Stream) PeerSubject() string { return s.conn.PeerSubject() }

// Authenticated implements rbac.Request.
func (s *Stream) Authenticated() bool { return s.conn.TLS != nil }

// RequestedServerName implements rbac.Request.
func (s *Stream) RequestedServerName() string { return s.conn.ServerSNI }

// Metadata implements rbac.Request.
func (s *Stream) Metadata(filter string, path []string) (any, bool) {
	if m, ok := s.metadata[filter]; ok {
		return match.Dig(m, path)
	}
	return s.conn.Metadata(filter, path)
}

// FilterState implements rbac.Request.
func (s *Stream) FilterState(key string) (string, bool) { return s.conn.FilterState(key) }

func (s *Stream) setMetadata(filter, key string, v any) {
	if s.metadata == nil {
		s.metadata = map[string]map[string]any{}
	}
	if s.metadata[filter] == nil {
		s.metadata[filter] = map[string]any{}
	}
	s.metadata[filter][key] = v
}

func lowerASCII(s string) string { return strings.ToLower(s) }
