package listener

import (
	"errors"
	"fmt"
	"io"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
)

// inspection is the state of one connection while listener filters look at it.
type inspection struct {
	conn      *network.Conn
	bytes     *peeked
	transport string // set by the TLS inspector
}

// listenerFilter looks at a connection before its filter chain is chosen. It blocks until it knows enough; deadlines
// are the caller's.
type listenerFilter struct {
	name     string
	disabled func(port uint32) bool
	inspect  func(*inspection) error
}

func compileListenerFilter(f *listenerv3.ListenerFilter) (listenerFilter, error) {
	out := listenerFilter{name: f.GetName()}
	if p := f.GetFilterDisabled(); p != nil {
		d, err := compileDisabled(p)
		if err != nil {
			return out, err
		}
		out.disabled = d
	}
	switch url := registry.InnerType(f.GetTypedConfig()); url {
	case registry.OriginalDst:
		out.inspect = restoreDestination
	case registry.TLSInspector:
		out.inspect = detectTLS
	case registry.HTTPInspector:
		out.inspect = detectHTTP
	case registry.ProxyProtocol:
		var err error
		if out.inspect, err = compileProxyProtocol(f.GetTypedConfig()); err != nil {
			return out, err
		}
	default:
		return out, fields.UnsupportedType("listener filter", f.GetName(), url)
	}
	return out, nil
}

func compileDisabled(p *listenerv3.ListenerFilterChainMatchPredicate) (func(uint32) bool, error) {
	switch r := p.GetRule().(type) {
	case *listenerv3.ListenerFilterChainMatchPredicate_AnyMatch:
		return func(uint32) bool { return r.AnyMatch }, nil
	case *listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange:
		lo, hi := r.DestinationPortRange.GetStart(), r.DestinationPortRange.GetEnd()
		return func(port uint32) bool { return int32(port) >= lo && int32(port) < hi }, nil
	case *listenerv3.ListenerFilterChainMatchPredicate_NotMatch:
		inner, err := compileDisabled(r.NotMatch)
		if err != nil {
			return nil, err
		}
		return func(port uint32) bool { return !inner(port) }, nil
	case *listenerv3.ListenerFilterChainMatchPredicate_OrMatch:
		return compileDisabledSet(r.OrMatch, true)
	case *listenerv3.ListenerFilterChainMatchPredicate_AndMatch:
		return compileDisabledSet(r.AndMatch, false)
	default:
		return nil, fields.Unsupported(p, fmt.Sprintf("rule (%T)", r), "")
	}
}

func compileDisabledSet(s *listenerv3.ListenerFilterChainMatchPredicate_MatchSet, or bool) (func(uint32) bool, error) {
	var all []func(uint32) bool
	for _, r := range s.GetRules() {
		f, err := compileDisabled(r)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return func(port uint32) bool {
		for _, f := range all {
			if f(port) == or {
				return or
			}
		}
		return !or
	}, nil
}

func restoreDestination(i *inspection) error {
	if i.conn.Restored {
		return nil
	}
	dst, err := originalDst(i.bytes)
	if err == nil && dst != i.conn.Local {
		i.conn.Local, i.conn.Restored = dst, true
	}
	return nil // a connection that was not redirected keeps its own address
}

func detectTLS(i *inspection) error {
	for {
		h, v := inspectTLS(i.bytes.buf)
		switch v {
		case isTLS:
			i.transport, i.conn.ServerSNI, i.conn.Requested = "tls", h.serverName, h.alpn
			return nil
		case notTLS:
			return nil
		}
		if len(i.bytes.buf) >= maxPeek {
			return nil
		}
		if err := i.bytes.more(); err != nil {
			return endOfBytes(err)
		}
	}
}

func detectHTTP(i *inspection) error {
	if i.transport == "tls" {
		return nil
	}
	for {
		p, more := inspectHTTP(i.bytes.buf)
		if p != "" {
			i.conn.Requested = []string{p}
			return nil
		}
		if !more || len(i.bytes.buf) >= maxPeek {
			return nil
		}
		if err := i.bytes.more(); err != nil {
			return endOfBytes(err)
		}
	}
}

// endOfBytes lets a connection that ended its stream go on with what it sent.
func endOfBytes(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
