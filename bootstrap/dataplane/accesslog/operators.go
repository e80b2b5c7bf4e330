package accesslog

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// operators are all commands that are understood.
var operators map[string]definition

func init() {
	operators = map[string]definition{
		"START_TIME":       {argument: optional, build: timeOperator(started, time.UTC)},
		"START_TIME_LOCAL": {argument: optional, build: timeOperator(started, time.Local)},
		"EMIT_TIME":        {argument: optional, build: timeOperator(emitted, time.UTC)},
		"EMIT_TIME_LOCAL":  {argument: optional, build: timeOperator(emitted, time.Local)},
		"DURATION":         numeric(between(started, ended, time.Millisecond)),
		"REQUEST_DURATION": numeric(between(started, requested, time.Millisecond)),
		"REQUEST_TX_DURATION": numeric(between(started, func(e *Entry) time.Time { return e.UpstreamRequestEnd },
			time.Millisecond)),
		"RESPONSE_DURATION":    numeric(between(started, responded, time.Millisecond)),
		"RESPONSE_TX_DURATION": numeric(between(responded, ended, time.Millisecond)),
		"COMMON_DURATION":      {argument: required, build: commonDuration},

		"PROTOCOL":      plain(str(func(e *Entry) string { return e.Protocol })),
		"RESPONSE_CODE": numeric(count(func(e *Entry) uint64 { return uint64(max(0, e.ResponseCode)) })),
		"RESPONSE_CODE_DETAILS": {argument: optional, build: func(arg string) (*operator, error) {
			details := func(e *Entry) string { return e.ResponseCodeDetails }
			if arg == "ALLOW_WHITESPACES" {
				return &operator{text: str(details)}, nil
			}
			return &operator{text: underscored(details)}, nil
		}},
		"CONNECTION_TERMINATION_DETAILS": plain(str(func(e *Entry) string { return e.ConnectionTerminationDetails })),
		"RESPONSE_FLAGS":                 plain(func(dst []byte, e *Entry) ([]byte, bool) { return e.Flags.append(dst, 0), true }),
		"RESPONSE_FLAGS_LONG":            plain(func(dst []byte, e *Entry) ([]byte, bool) { return e.Flags.append(dst, 1), true }),
		"LOCAL_REPLY_BODY":               plain(func(dst []byte, e *Entry) ([]byte, bool) { return append(dst, e.LocalReplyBody...), true }),
		"BYTES_RECEIVED":                 numeric(count(func(e *Entry) uint64 { return e.BytesReceived })),
		"BYTES_SENT":                     numeric(count(func(e *Entry) uint64 { return e.BytesSent })),
		"ROUTE_NAME":                     plain(str(func(e *Entry) string { return e.RouteName })),
		"VIRTUAL_CLUSTER_NAME":           plain(str(func(e *Entry) string { return e.VirtualClusterName })),
		"FILTER_CHAIN_NAME":              plain(str(func(e *Entry) string { return e.FilterChainName })),
		"VIRTUAL_HOST_NAME":              plain(str(func(e *Entry) string { return e.VirtualHostName })),
		"REQUEST_HEADERS_BYTES":          numeric(count(func(e *Entry) uint64 { return uint64(headerBytes(e.Request)) })),
		"RESPONSE_HEADERS_BYTES":         numeric(count(func(e *Entry) uint64 { return uint64(headerBytes(e.Response)) })),
		"RESPONSE_TRAILERS_BYTES":        numeric(count(func(e *Entry) uint64 { return uint64(headerBytes(e.Trailers)) })),
		"QUERY_PARAMS":                   plain(str(func(e *Entry) string { _, q := cutPath(e); return q })),
		"ACCESS_LOG_TYPE":                plain(str(logType)),
		"CEL":                            {argument: required, length: true, build: celOperator(false)},
		"TYPED_CEL":                      {argument: required, length: true, build: celOperator(true)},
		"TRACE_ID":                       plain(str(func(e *Entry) string { return e.TraceID })),
		"SPAN_ID":                        plain(str(func(e *Entry) string { return e.SpanID })),
		"CONNECTION_ID":                  numeric(count(func(e *Entry) uint64 { return e.Downstream.ConnectionID })),
		"REQUESTED_SERVER_NAME":          plain(str(func(e *Entry) string { return validName(e.Downstream.ServerName) })),
		"HOSTNAME":                       {build: hostname},
		"ENVIRONMENT":                    {argument: required, length: true, build: environment},

		"UPSTREAM_CONNECTION_ID":            numeric(count(func(e *Entry) uint64 { return e.Upstream.ConnectionID })),
		"UPSTREAM_CLUSTER":                  plain(str(statName)),
		"UPSTREAM_CLUSTER_RAW":              plain(str(func(e *Entry) string { return e.Upstream.Cluster })),
		"UPSTREAM_PROTOCOL":                 plain(str(func(e *Entry) string { return e.Upstream.Protocol })),
		"UPSTREAM_HOST":                     plain(addr(upstreamHost)),
		"UPSTREAM_HOST_NAME":                plain(upstreamHostName),
		"UPSTREAM_REQUEST_ATTEMPT_COUNT":    numeric(count(func(e *Entry) uint64 { return uint64(max(0, e.Upstream.Attempts)) })),
		"UPSTREAM_TRANSPORT_FAILURE_REASON": plain(underscored(func(e *Entry) string { return e.Upstream.TransportFailureReason })),
		"DOWNSTREAM_TRANSPORT_FAILURE_REASON": plain(underscored(func(e *Entry) string {
			return e.Downstream.TransportFailureReason
		})),
	}
	addresses("UPSTREAM_LOCAL", func(e *Entry) netip.AddrPort { return e.Upstream.LocalAddress })
	addresses("UPSTREAM_REMOTE", func(e *Entry) netip.AddrPort { return e.Upstream.RemoteAddress })
	addresses("DOWNSTREAM_LOCAL", func(e *Entry) netip.AddrPort { return e.Downstream.LocalAddress })
	addresses("DOWNSTREAM_DIRECT_LOCAL", func(e *Entry) netip.AddrPort { return e.Downstream.DirectLocalAddress })
	addresses("DOWNSTREAM_REMOTE", func(e *Entry) netip.AddrPort { return e.Downstream.RemoteAddress })
	addresses("DOWNSTREAM_DIRECT_REMOTE", func(e *Entry) netip.AddrPort { return e.Downstream.DirectRemoteAddress })
	certificates("DOWNSTREAM", func(e *Entry) *TLS { return e.Downstream.TLS })
	certificates("UPSTREAM", func(e *Entry) *TLS { return e.Upstream.TLS })
	headerOperators()
	valueOperators()
}

func addresses(prefix string, get func(*Entry) netip.AddrPort) {
	operators[prefix+"_ADDRESS"] = plain(addr(get))
	operators[prefix+"_ADDRESS_WITHOUT_PORT"] = plain(host(get))
	operators[prefix+"_PORT"] = numeric(port(get))
}

func started(e *Entry) time.Time   { return e.Start }
func ended(e *Entry) time.Time     { return e.End }
func requested(e *Entry) time.Time { return e.RequestEnd }
func responded(e *Entry) time.Time { return e.UpstreamResponseStart }
func emitted(*Entry) time.Time     { return time.Now() }

func upstreamHost(e *Entry) netip.AddrPort { return e.Upstream.Host }

func upstreamHostName(dst []byte, e *Entry) ([]byte, bool) {
	if e.Upstream.HostName != "" {
		return append(dst, e.Upstream.HostName...), true
	}
	return addr(upstreamHost)(dst, e)
}

func statName(e *Entry) string {
	if e.Upstream.AltStatName != "" {
		return e.Upstream.AltStatName
	}
	return e.Upstream.Cluster
}

// logType is the moment of the entry: this proxy logs ends only.
func logType(e *Entry) string {
	if e.Protocol == "" {
		return "TcpConnectionEnd"
	}
	return "DownstreamEnd"
}

// validName returns a server name from the client's hello with every byte that a
// name has not turned into an underscore, and marked: the log's line is not the
// client's to write. The underscores of Istio's own names count as such bytes.
func validName(s string) string {
	clean := []byte(nil)
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' {
			continue
		}
		if clean == nil {
			clean = []byte(s)
		}
		clean[i] = '_'
	}
	if clean == nil {
		return s
	}
	return "invalid:" + string(clean)
}

var timePoints = map[string]func(*Entry) time.Time{
	"DS_RX_BEG": started,
	"DS_RX_END": requested,
	"US_TX_END": func(e *Entry) time.Time { return e.UpstreamRequestEnd },
	"US_RX_BEG": responded,
	"DS_TX_END": ended,
}

// commonDuration is FROM:TO or FROM:TO:UNIT.
func commonDuration(arg string) (*operator, error) {
	parts := strings.Split(arg, ":")
	if len(parts) != 2 && len(parts) != 3 {
		return nil, fmt.Errorf("argument %q is not FROM:TO:UNIT", arg)
	}
	unit := time.Millisecond
	if len(parts) == 3 {
		switch parts[2] {
		case "ms":
		case "us":
			unit = time.Microsecond
		case "ns":
			unit = time.Nanosecond
		default:
			return nil, fmt.Errorf("unit %q is not supported", parts[2])
		}
	}
	var points [2]func(*Entry) time.Time
	for i := range points {
		p, ok := timePoints[parts[i]]
		if !ok {
			return nil, fmt.Errorf("time point %q is not supported", parts[i])
		}
		points[i] = p
	}
	return &operator{text: between(points[0], points[1], unit), number: true}, nil
}
