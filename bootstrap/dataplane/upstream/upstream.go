// Package upstream carries HTTP requests over pooled connections to one endpoint, as HTTP/1.1 or HTTP/2.
//
// It knows framing, connection reuse, upgrades and trailers. It does not know clusters, load balancing, retries or
// TLS: connections come ready from a dial function.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// Dial opens one connection to the endpoint, with TLS done where it is wanted.
type Dial func(ctx context.Context) (net.Conn, error)

// Pool carries requests to one endpoint. RoundTrip's response body must be closed; for status 101 it is an
// io.ReadWriteCloser. Errors are *Error. Close drops idle connections and lets running requests finish.
type Pool interface {
	RoundTrip(req *http.Request) (*http.Response, error)
	Close()
}

// Stage says how far a request got before it failed.
type Stage int

// Stages.
const (
	Connecting     Stage = iota // no connection could be made
	BeforeResponse              // the connection broke before response headers
	Refused                     // the peer refused the stream unprocessed
	Timeout                     // the context's deadline passed before response headers
	Cancelled                   // the context was cancelled
)

// Error is a failed round trip.
type Error struct {
	Stage Stage
	Err   error
}

// Error implements error.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

func failed(ctx context.Context, stage Stage, err error) *Error {
	switch {
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return &Error{Timeout, fmt.Errorf("%w", context.DeadlineExceeded)}
	case ctx.Err() != nil:
		return &Error{Cancelled, ctx.Err()}
	}
	return &Error{stage, err}
}

// Options tune a pool.
type Options struct {
	IdleTimeout time.Duration // how long an idle connection is kept; 0 means one hour
	MaxRequests uint32        // requests per connection; 0 means no limit
	OnConnect   func()        // a connection was made
	OnClose     func()        // a connection was closed
	// Full reports whether a dial error means that no further connection is allowed now. Such requests wait for one to
	// come free where Enqueue allows it; the function it returns is called when the wait is over.
	Full    func(error) bool
	Enqueue func() (func(), bool)
}

func (o Options) idle() time.Duration {
	if o.IdleTimeout <= 0 {
		return time.Hour
	}
	return o.IdleTimeout
}

// Hop-by-hop headers never travel to the next hop; Upgrade requests put two of them back.
var hopByHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Transfer-Encoding": true, "Upgrade": true,
	"Trailer": true, "Content-Length": true,
}

// IsHop reports whether the canonical header name is meant for one hop only.
func IsHop(name string) bool { return hopByHop[name] }

// lowered caches the lower-case form of header names seen often; HTTP/1.1 names go out in lower case, as from Envoy.
var lowered = func() map[string]string {
	m := map[string]string{}
	for _, n := range []string{
		"Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control", "Content-Encoding",
		"Content-Type", "Cookie", "Date", "Etag", "Expires", "Host", "Last-Modified", "Location", "Origin", "Referer",
		"Server", "Set-Cookie", "User-Agent", "Vary", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Spanid", "X-B3-Traceid",
		"X-Envoy-Attempt-Count", "X-Envoy-Peer-Metadata", "X-Envoy-Peer-Metadata-Id", "X-Envoy-Upstream-Service-Time",
		"X-Envoy-Decorator-Operation", "X-Forwarded-Client-Cert", "X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id",
		"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials",
	} {
		m[n] = strings.ToLower(n)
	}
	return m
}()

// LowerName returns the lower-case form of a header name.
func LowerName(n string) string {
	if l, ok := lowered[n]; ok {
		return l
	}
	return strings.ToLower(n)
}
