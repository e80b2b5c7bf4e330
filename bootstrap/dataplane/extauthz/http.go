package extauthz

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/rpc"
)

// removeHeader lists, in an answer, the headers that the request is to go on without.
const removeHeader = "X-Envoy-Auth-Headers-To-Remove"

type httpClient struct {
	clusters       *cluster.Manager
	cluster        string
	timeout        time.Duration
	prefix         string
	override       string
	allowed        match.String
	add            [][2]string
	toUpstream     match.String
	appendUpstream match.String
	toClient       match.String // nil for every header
	onSuccess      match.String
	toMetadata     match.String
}

var _ Client = (*httpClient)(nil)

func newHTTP(p *authzv3.HttpService, clusters *cluster.Manager) (*httpClient, error) {
	const known = "server_uri path_prefix path_override authorization_request authorization_response"
	if err := fields.Check(p, known); err != nil {
		return nil, err
	}
	if p.GetServerUri().GetCluster() == "" {
		return nil, errors.New("http_service: server_uri.cluster must not be empty")
	}
	out := &httpClient{
		clusters: clusters, cluster: p.GetServerUri().GetCluster(), timeout: p.GetServerUri().GetTimeout().AsDuration(),
		prefix: p.GetPathPrefix(), override: p.GetPathOverride(),
	}
	req, resp := p.GetAuthorizationRequest(), p.GetAuthorizationResponse()
	if err := fields.Check(req, "allowed_headers headers_to_add"); err != nil {
		return nil, err
	}
	const knownResp = "allowed_upstream_headers allowed_upstream_headers_to_append allowed_client_headers " +
		"allowed_client_headers_on_success dynamic_metadata_from_headers"
	if err := fields.Check(resp, knownResp); err != nil {
		return nil, err
	}
	for _, h := range req.GetHeadersToAdd() {
		out.add = append(out.add, [2]string{http.CanonicalHeaderKey(h.GetKey()), h.GetValue()})
	}
	var errs [6]error
	//nolint:staticcheck // deprecated, still read
	out.allowed, errs[0] = headerList(req.GetAllowedHeaders())
	out.toUpstream, errs[1] = headerList(resp.GetAllowedUpstreamHeaders())
	out.appendUpstream, errs[2] = headerList(resp.GetAllowedUpstreamHeadersToAppend())
	out.toClient, errs[3] = headerList(resp.GetAllowedClientHeaders())
	out.onSuccess, errs[4] = headerList(resp.GetAllowedClientHeadersOnSuccess())
	out.toMetadata, errs[5] = headerList(resp.GetDynamicMetadataFromHeaders())
	return out, errors.Join(errs[:]...)
}

// keeps tells which headers of a request the service gets: a few always, others where they are listed.
func (c *httpClient) keeps(more match.String) func(string) bool {
	return func(name string) bool {
		switch name {
		case ":method", ":path", ":authority", "host", "authorization", "content-length":
			return true
		}
		return more != nil && more(name) || c.allowed != nil && c.allowed(name)
	}
}

// Check implements Client.
func (c *httpClient) Check(ctx context.Context, req *authv3.CheckRequest) (*Verdict, error) {
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	in := req.GetAttributes().GetRequest().GetHttp()
	out := rpc.Request{Method: in.GetMethod(), Host: in.GetHost(), Path: c.prefix + in.GetPath(), Header: http.Header{}}
	if c.override != "" {
		out.Path = c.override
	}
	for name, v := range in.GetHeaders() {
		if !strings.HasPrefix(name, ":") && name != "content-length" && name != "host" {
			out.Header[http.CanonicalHeaderKey(name)] = []string{v}
		}
	}
	for _, h := range c.add {
		out.Header[h[0]] = []string{h[1]}
	}
	out.Header["X-Envoy-Internal"] = []string{"true"}
	if out.Body = in.GetRawBody(); len(out.Body) == 0 {
		out.Body = []byte(in.GetBody())
	}
	resp, err := rpc.Do(ctx, c.clusters, c.cluster, 1, out)
	if err != nil {
		return nil, err
	}
	if resp.Status >= http.StatusInternalServerError {
		return nil, fmt.Errorf("authorization service answers %d", resp.Status)
	}
	return c.verdict(resp), nil
}

func (c *httpClient) verdict(r *rpc.Response) *Verdict {
	out := &Verdict{Allowed: r.Status == http.StatusOK, Status: r.Status, Body: string(r.Body)}
	for name, values := range r.Header {
		lower := strings.ToLower(name)
		for i, v := range values {
			if c.toMetadata != nil && c.toMetadata(lower) {
				if out.Metadata == nil {
					out.Metadata = map[string]any{}
				}
				out.Metadata[lower] = v
			}
			if !out.Allowed {
				if c.forClient(lower) {
					out.Reply = append(out.Reply, Edit{name, v, Append})
				}
				continue
			}
			if c.toUpstream != nil && c.toUpstream(lower) {
				e := Edit{name, v, Set}
				if i > 0 {
					e.Action = Append
				}
				out.Request = append(out.Request, e)
			}
			if c.appendUpstream != nil && c.appendUpstream(lower) {
				out.Request = append(out.Request, Edit{name, v, AppendExisting})
			}
			if c.onSuccess != nil && c.onSuccess(lower) {
				out.Response = append(out.Response, Edit{name, v, Append})
			}
		}
	}
	if out.Allowed {
		for _, list := range r.Header[removeHeader] {
			for name := range strings.SplitSeq(list, ",") {
				out.Remove = append(out.Remove, strings.TrimSpace(name))
			}
		}
	}
	return out
}

// forClient tells which headers of a refusal reach the client. What frames the service's own message never does.
func (c *httpClient) forClient(name string) bool {
	switch name {
	case "connection", "keep-alive", "transfer-encoding", "content-length", "trailer", "upgrade", "host":
		return false
	case "www-authenticate", "location":
		return true
	}
	return c.toClient == nil || c.toClient(name)
}

// Query applies the verdict's changes to a path's query.
func (v *Verdict) Query(path string) string {
	if len(v.SetQuery) == 0 && len(v.RemoveQuery) == 0 {
		return path
	}
	bare, query, _ := strings.Cut(path, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return path
	}
	for _, name := range v.RemoveQuery {
		values.Del(name)
	}
	for _, kv := range v.SetQuery {
		values.Set(kv[0], kv[1])
	}
	if len(values) == 0 {
		return bare
	}
	return bare + "?" + values.Encode()
}
