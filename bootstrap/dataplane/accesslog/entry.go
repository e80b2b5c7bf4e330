package accesslog

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/netip"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// Entry is what is known of one request or, for a TCP proxy, one connection when
// it is logged. Fields that are not known keep their zero value, which prints as
// Envoy prints an absent value.
type Entry struct {
	// Start is when the request's first byte, or the connection, arrived.
	Start time.Time
	// RequestEnd is when the request's last byte arrived from downstream.
	RequestEnd time.Time
	// UpstreamRequestEnd is when the request's last byte went upstream.
	UpstreamRequestEnd time.Time
	// UpstreamResponseStart is when the response's first byte came from upstream.
	UpstreamResponseStart time.Time
	// End is when the response's last byte went downstream, or the stream ended.
	End time.Time

	// Protocol is "HTTP/1.0", "HTTP/1.1" or "HTTP/2"; empty for TCP.
	Protocol                        string
	Method, Scheme, Authority, Path string
	// Request, Response and Trailers have canonical keys.
	Request, Response, Trailers http.Header
	// ResponseCode is 0 when no response was begun, and for TCP.
	ResponseCode                 int
	ResponseCodeDetails          string
	ConnectionTerminationDetails string
	Flags                        Flags
	LocalReplyBody               string
	// BytesReceived and BytesSent count body bytes, or for TCP all bytes, from
	// and to downstream.
	BytesReceived, BytesSent uint64
	RouteName                string
	VirtualClusterName       string
	VirtualHostName          string
	// Direction is the listener's, as envoy.config.core.v3.TrafficDirection numbers it.
	Direction int
	// Node is the proxy's own, for expressions; may be nil.
	Node            *corev3.Node
	FilterChainName string
	// TraceID and SpanID are those of the active span, in hexadecimal.
	TraceID, SpanID string
	// Traced tells that the span is reported.
	Traced bool

	Downstream Downstream
	Upstream   Upstream

	// Metadata returns the value under path of filter's metadata from source, and
	// whether it exists. An empty path asks for the whole of the filter's
	// metadata. Values have the types that match.Lookup names, or are
	// *structpb.Struct. Nil where there is no metadata.
	Metadata func(source MetadataSource, filter string, path []string) (any, bool)
	// FilterState returns a filter state object: a string, or a value of the types
	// that match.Lookup names. Nil where there is no filter state.
	FilterState func(key string) (any, bool)
}

// MetadataSource says whose metadata is asked for.
type MetadataSource int

// The sources of metadata.
const (
	Dynamic MetadataSource = iota
	Cluster
	Route
	UpstreamHost
	ListenerMetadata
	ListenerFilterChain
	VirtualHost
)

// Downstream is the client's side.
type Downstream struct {
	ConnectionID uint64
	// LocalAddress is the address the client connected to, before redirection;
	// DirectLocalAddress the one the connection was accepted on.
	LocalAddress, DirectLocalAddress netip.AddrPort
	// RemoteAddress is the client's, after x-forwarded-for or the PROXY protocol;
	// DirectRemoteAddress the physical peer's.
	RemoteAddress, DirectRemoteAddress netip.AddrPort
	// ServerName is the name in the TLS hello, whether or not TLS ended here.
	ServerName             string
	TransportFailureReason string
	TLS                    *TLS
}

// Upstream is the server's side.
type Upstream struct {
	ConnectionID uint64
	// Cluster is the cluster's name, AltStatName its alternative name, if any.
	Cluster, AltStatName string
	// Host is the address of the chosen endpoint, HostName its name where the
	// cluster is made of names.
	Host     netip.AddrPort
	HostName string
	// LocalAddress and RemoteAddress are those of the connection.
	LocalAddress, RemoteAddress netip.AddrPort
	Protocol                    string
	TransportFailureReason      string
	// Attempts counts the tries, the first included.
	Attempts int
	TLS      *TLS
}

// TLS is a TLS connection that ended here. State is needed, Local is the leaf
// certificate that was presented to the peer, if any.
type TLS struct {
	State *tls.ConnectionState
	Local *x509.Certificate
}

func (t *TLS) peer() *x509.Certificate {
	if t == nil || t.State == nil || len(t.State.PeerCertificates) == 0 {
		return nil
	}
	return t.State.PeerCertificates[0]
}

func (t *TLS) local() *x509.Certificate {
	if t == nil {
		return nil
	}
	return t.Local
}

func (t *TLS) state() *tls.ConnectionState {
	if t == nil {
		return nil
	}
	return t.State
}
