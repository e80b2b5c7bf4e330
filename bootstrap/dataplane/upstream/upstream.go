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
	"time"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/http1"
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
	Full     func(error) bool
	Enqueue  func() (func(), bool)
	Overflow error // what requests fail with that Enqueue does not let wait

	KeepNames bool // of headers in responses, for Trace.Answer

	MaxAge            time.Duration // connections that are older take no further request; 0 means no limit
	MaxStreams        uint32        // streams per HTTP/2 connection, besides the peer's limit; 0 means no limit
	Ping, PingTimeout time.Duration // how long an HTTP/2 connection may be silent before it is asked, and then
}

// old reports whether a connection made at since takes no further request.
func (o *Options) old(since time.Time) bool { return o.MaxAge > 0 && time.Since(since) >= o.MaxAge }

func (o Options) idle() time.Duration {
	if o.IdleTimeout <= 0 {
		return time.Hour
	}
	return o.IdleTimeout
}

// IsHop reports whether the canonical header name is meant for one hop only.
func IsHop(name string) bool { return http1.IsHop(name) }

// Aborter is something that the end of a context interrupts at once.
type Aborter interface{ Abort() }

// Abortable is a context that interrupts one thing by itself, without a goroutine, and knows its round trip's trace.
// What carries a request over HTTP/1.1 attaches its connection to it.
type Abortable interface {
	context.Context
	// Attach reports false where the context is over or has something attached: then context.AfterFunc has to do.
	Attach(Aborter) bool
	// Detach reports whether a was attached and has not been interrupted.
	Detach(a Aborter) bool
	UpstreamTrace() *Trace
}
