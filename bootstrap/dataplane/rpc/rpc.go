// Package rpc sends requests of the proxy's own, not a client's, to clusters: plain HTTP and unary gRPC.
//
// It knows clusters and framing. It does not know what the messages mean; deadlines are the caller's context.
package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
)

// MaxBody is how much of a response is read.
const MaxBody = 4 << 20

// ErrNoCluster says that the cluster a request was meant for does not exist.
var ErrNoCluster = errors.New("cluster not found")

// Request is one HTTP request. Header may be nil; Host becomes :authority.
type Request struct {
	Method, Host, Path string
	Header             http.Header
	Body               []byte
}

// Response is a response, read to its end.
type Response struct {
	Status  int
	Header  http.Header
	Trailer http.Header
	Body    []byte
}

// Do sends r to the cluster of that name and reads the whole response. major is the HTTP version where the cluster
// leaves the choice.
func Do(ctx context.Context, clusters *cluster.Manager, name string, major int, r Request) (*Response, error) {
	c := clusters.Get(name)
	if c == nil {
		return nil, fmt.Errorf("%s: %w", name, ErrNoCluster)
	}
	if err := c.BeginRequest(cluster.Default); err != nil {
		return nil, err
	}
	defer c.EndRequest(cluster.Default)
	c.Stats.Requests.Inc()
	host, err := c.Pick(cluster.Choice{})
	if err != nil {
		return nil, err
	}
	host.Active.Add(1)
	defer host.Active.Add(-1)
	host.Requests.Add(1)
	resp, err := c.RoundTrip(host, request(ctx, r), major, cluster.ConnectOptions{SNI: r.Host})
	if err != nil {
		host.Errors.Add(1)
		switch {
		case errors.Is(err, cluster.ErrOverflow), errors.Is(ctx.Err(), context.Canceled):
		case ctx.Err() != nil:
			c.Stats.Timeout.Inc()
			c.Unanswered(host, http.StatusGatewayTimeout)
		default:
			c.Unanswered(host, http.StatusServiceUnavailable)
		}
		return nil, err
	}
	c.Reached(host, false)
	c.Answered(host, resp.StatusCode)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	if err == nil && len(body) > MaxBody {
		err = fmt.Errorf("response is larger than %d bytes", MaxBody)
	}
	if err != nil {
		host.Errors.Add(1)
		return nil, fmt.Errorf("read response: %w", err)
	}
	if class := resp.StatusCode / 100; class >= 1 && class <= 5 {
		c.Stats.Status[class].Inc()
	}
	if resp.StatusCode >= http.StatusInternalServerError {
		host.Errors.Add(1)
	} else {
		host.Success.Add(1)
	}
	c.Stats.Success.Inc()
	return &Response{Status: resp.StatusCode, Header: resp.Header, Trailer: resp.Trailer, Body: body}, nil
}

func request(ctx context.Context, r Request) *http.Request {
	h := r.Header
	if h == nil {
		h = http.Header{}
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // keeps client libraries from adding their own
	}
	req := &http.Request{
		Method: r.Method, Host: r.Host, Header: h, RequestURI: r.Path, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		URL: &url.URL{Scheme: "http", Host: r.Host, Opaque: r.Path}, ContentLength: int64(len(r.Body)), Body: http.NoBody,
	}
	if len(r.Body) > 0 {
		req.Body = io.NopCloser(bytes.NewReader(r.Body))
	}
	return req.WithContext(ctx)
}
