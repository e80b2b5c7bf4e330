package accesslog

import (
	"crypto/x509"
	"net/http"
	"net/netip"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Wire says what goes to an access log service besides what always does.
type Wire struct {
	RequestHeaders, ResponseHeaders, ResponseTrailers []string // any case
	FilterState                                       []string
}

// HTTP renders e as the entry of a request.
func (w Wire) HTTP(e *Entry) *datav3.HTTPAccessLogEntry {
	pick := func(names []string, h http.Header) map[string]string {
		var out map[string]string
		for _, n := range names {
			if v := h[http.CanonicalHeaderKey(n)]; len(v) > 0 {
				if out == nil {
					out = map[string]string{}
				}
				out[strings.ToLower(n)] = strings.Join(v, ",")
			}
		}
		return out
	}
	get := func(n string) string { v, _ := first(e.Request, n); return v }
	out := &datav3.HTTPAccessLogEntry{
		CommonProperties: w.common(e),
		Request: &datav3.HTTPRequestProperties{
			RequestMethod: corev3.RequestMethod(corev3.RequestMethod_value[e.Method]), Scheme: e.Scheme, Authority: e.Authority,
			Path: e.Path, UserAgent: get("User-Agent"), Referer: get("Referer"), ForwardedFor: get("X-Forwarded-For"),
			RequestId: get("X-Request-Id"), OriginalPath: get("X-Envoy-Original-Path"),
			RequestHeadersBytes: uint64(headerBytes(e.Request)), RequestBodyBytes: e.BytesReceived,
			RequestHeaders: pick(w.RequestHeaders, e.Request),
		},
		Response: &datav3.HTTPResponseProperties{
			ResponseHeadersBytes: uint64(headerBytes(e.Response)), ResponseBodyBytes: e.BytesSent, ResponseCodeDetails: e.ResponseCodeDetails,
			ResponseHeaders: pick(w.ResponseHeaders, e.Response), ResponseTrailers: pick(w.ResponseTrailers, e.Trailers),
		},
	}
	if e.ResponseCode > 0 {
		out.Response.ResponseCode = wrapperspb.UInt32(uint32(e.ResponseCode))
	}
	switch e.Protocol {
	case "HTTP/1.0":
		out.ProtocolVersion = datav3.HTTPAccessLogEntry_HTTP10
	case "HTTP/1.1":
		out.ProtocolVersion = datav3.HTTPAccessLogEntry_HTTP11
	case "HTTP/2":
		out.ProtocolVersion = datav3.HTTPAccessLogEntry_HTTP2
	}
	return out
}

// TCP renders e as the entry of a connection.
func (w Wire) TCP(e *Entry) *datav3.TCPAccessLogEntry {
	return &datav3.TCPAccessLogEntry{
		CommonProperties: w.common(e), ConnectionProperties: &datav3.ConnectionProperties{ReceivedBytes: e.BytesReceived, SentBytes: e.BytesSent},
	}
}

func (w Wire) common(e *Entry) *datav3.AccessLogCommon {
	since := func(t time.Time) *durationpb.Duration {
		if t.IsZero() || e.Start.IsZero() {
			return nil
		}
		return durationpb.New(t.Sub(e.Start))
	}
	out := &datav3.AccessLogCommon{
		DownstreamRemoteAddress: wireAddress(e.Downstream.RemoteAddress), DownstreamLocalAddress: wireAddress(e.Downstream.LocalAddress),
		DownstreamDirectRemoteAddress: wireAddress(e.Downstream.DirectRemoteAddress), StartTime: timestamppb.New(e.Start),
		TimeToLastRxByte: since(e.RequestEnd), TimeToLastUpstreamTxByte: since(e.UpstreamRequestEnd),
		TimeToFirstUpstreamRxByte: since(e.UpstreamResponseStart), TimeToLastDownstreamTxByte: since(e.End), Duration: since(e.End),
		UpstreamRemoteAddress: wireAddress(e.Upstream.Host), UpstreamLocalAddress: wireAddress(e.Upstream.LocalAddress),
		UpstreamCluster: e.Upstream.Cluster, ResponseFlags: e.Flags.wire(), RouteName: e.RouteName,
		UpstreamTransportFailureReason:   e.Upstream.TransportFailureReason,
		DownstreamTransportFailureReason: e.Downstream.TransportFailureReason, UpstreamRequestAttemptCount: uint32(max(e.Upstream.Attempts, 0)),
		ConnectionTerminationDetails: e.ConnectionTerminationDetails, AccessLogType: datav3.AccessLogType(datav3.AccessLogType_value[logType(e)]),
		TlsProperties: wireTLS(e),
	}
	for _, k := range w.FilterState {
		v, ok := e.state(k)
		if !ok {
			continue
		}
		if a := wireState(v); a != nil {
			if out.FilterStateObjects == nil {
				out.FilterStateObjects = map[string]*anypb.Any{}
			}
			out.FilterStateObjects[k] = a
		}
	}
	return out
}

func wireState(v any) *anypb.Any {
	var m proto.Message
	switch v := v.(type) {
	case string:
		m = wrapperspb.String(v)
	case map[string]any:
		s, err := structpb.NewStruct(v)
		if err != nil {
			return nil
		}
		m = s
	default:
		return nil
	}
	a, err := anypb.New(m)
	if err != nil {
		return nil
	}
	return a
}

func wireAddress(a netip.AddrPort) *corev3.Address {
	if !a.IsValid() {
		return nil
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: a.Addr().Unmap().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())},
	}}}
}

func wireTLS(e *Entry) *datav3.TLSProperties {
	st := e.Downstream.TLS.state()
	if st == nil {
		return nil
	}
	certificate := func(c *x509.Certificate) *datav3.TLSProperties_CertificateProperties {
		if c == nil {
			return nil
		}
		out := &datav3.TLSProperties_CertificateProperties{Subject: c.Subject.String(), Issuer: c.Issuer.String()}
		for _, u := range c.URIs {
			out.SubjectAltName = append(out.SubjectAltName, &datav3.TLSProperties_CertificateProperties_SubjectAltName{
				San: &datav3.TLSProperties_CertificateProperties_SubjectAltName_Uri{Uri: u.String()},
			})
		}
		for _, n := range c.DNSNames {
			out.SubjectAltName = append(out.SubjectAltName, &datav3.TLSProperties_CertificateProperties_SubjectAltName{
				San: &datav3.TLSProperties_CertificateProperties_SubjectAltName_Dns{Dns: n},
			})
		}
		return out
	}
	return &datav3.TLSProperties{
		TlsVersion:     datav3.TLSProperties_TLSVersion(st.Version - 0x300),
		TlsCipherSuite: wrapperspb.UInt32(uint32(st.CipherSuite)), TlsSniHostname: e.Downstream.ServerName,
		LocalCertificateProperties: certificate(e.Downstream.TLS.local()), PeerCertificateProperties: certificate(e.Downstream.TLS.peer()),
	}
}

func (f Flags) wire() *datav3.ResponseFlags {
	if f == 0 {
		return nil
	}
	has := func(b Flags) bool { return f&b != 0 }
	out := &datav3.ResponseFlags{
		FailedLocalHealthcheck: has(FailedLocalHealthCheck), NoHealthyUpstream: has(NoHealthyUpstream),
		UpstreamRequestTimeout: has(UpstreamRequestTimeout), LocalReset: has(LocalReset), UpstreamRemoteReset: has(UpstreamRemoteReset),
		UpstreamConnectionFailure: has(UpstreamConnectionFailure), UpstreamConnectionTermination: has(UpstreamConnectionTermination),
		UpstreamOverflow: has(UpstreamOverflow), NoRouteFound: has(NoRouteFound), DelayInjected: has(DelayInjected),
		FaultInjected: has(FaultInjected), RateLimited: has(RateLimited), RateLimitServiceError: has(RateLimitServiceError),
		DownstreamConnectionTermination: has(DownstreamConnectionTermination), UpstreamRetryLimitExceeded: has(UpstreamRetryLimitExceeded),
		StreamIdleTimeout: has(StreamIdleTimeout), InvalidEnvoyRequestHeaders: has(InvalidEnvoyRequestHeaders),
		DownstreamProtocolError: has(DownstreamProtocolError), UpstreamMaxStreamDurationReached: has(UpstreamMaxStreamDurationReached),
		ResponseFromCacheFilter: has(ResponseFromCacheFilter), NoFilterConfigFound: has(NoFilterConfigFound),
		DurationTimeout: has(DurationTimeout), UpstreamProtocolError: has(UpstreamProtocolError), NoClusterFound: has(NoClusterFound),
		OverloadManager: has(OverloadManagerTerminated), DnsResolutionFailure: has(DNSResolutionFailed), DownstreamRemoteReset: has(DownstreamRemoteReset),
	}
	if has(UnauthorizedExternalService) {
		out.UnauthorizedDetails = &datav3.ResponseFlags_Unauthorized{Reason: datav3.ResponseFlags_Unauthorized_EXTERNAL_SERVICE}
	}
	return out
}
