package export

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/rpc"
)

// GRPC reads a gRPC service behind a cluster, and the time that it may take, 0 for none given.
func GRPC(p *corev3.GrpcService, clusters *cluster.Manager) (*rpc.Service, time.Duration, error) {
	if err := fields.Check(p, "envoy_grpc timeout initial_metadata"); err != nil {
		return nil, 0, err
	}
	e := p.GetEnvoyGrpc()
	if err := fields.Check(e, "cluster_name authority"); err != nil {
		return nil, 0, err
	}
	if e.GetClusterName() == "" {
		return nil, 0, errors.New("grpc_service: envoy_grpc.cluster_name must not be empty")
	}
	out := &rpc.Service{Clusters: clusters, Cluster: e.GetClusterName(), Authority: e.GetAuthority(), Metadata: http.Header{}}
	for _, h := range p.GetInitialMetadata() {
		if err := fields.Check(h, "key value"); err != nil {
			return nil, 0, err
		}
		out.Metadata.Add(h.GetKey(), h.GetValue())
	}
	return out, p.GetTimeout().AsDuration(), nil
}

// HTTP is a collector that takes POST requests.
type HTTP struct {
	Clusters            *cluster.Manager
	Cluster, Host, Path string
	Header              http.Header
	Timeout             time.Duration
}

// HTTPService reads an HTTP service behind a cluster.
func HTTPService(p *corev3.HttpService, clusters *cluster.Manager) (*HTTP, error) {
	if err := fields.Check(p, "http_uri request_headers_to_add"); err != nil {
		return nil, err
	}
	u := p.GetHttpUri()
	if err := fields.Check(u, "uri cluster timeout"); err != nil {
		return nil, err
	}
	if u.GetCluster() == "" {
		return nil, errors.New("http_service: http_uri.cluster must not be empty")
	}
	out := &HTTP{Clusters: clusters, Cluster: u.GetCluster(), Header: http.Header{}, Timeout: u.GetTimeout().AsDuration()}
	out.Host, out.Path = splitURI(u.GetUri())
	for _, o := range p.GetRequestHeadersToAdd() {
		if err := fields.Check(o, "header append_action append keep_empty_value"); err != nil {
			return nil, err
		}
		v := o.GetHeader().GetValue()
		if strings.Contains(strings.ReplaceAll(v, "%%", ""), "%") {
			return nil, fields.Unsupported(o, "header", "values with command operators")
		}
		v = strings.ReplaceAll(v, "%%", "%")
		//nolint:staticcheck // deprecated, still legal
		if ap := o.GetAppend(); ap.GetValue() || ap == nil && o.GetAppendAction() == corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD {
			out.Header.Add(o.GetHeader().GetKey(), v)
			continue
		}
		out.Header.Set(o.GetHeader().GetKey(), v)
	}
	return out, nil
}

// splitURI gives host and path of a URI, which may go without scheme, as istiod writes them.
func splitURI(uri string) (host, path string) {
	if _, rest, ok := strings.Cut(uri, "://"); ok {
		uri = rest
	}
	host, path, _ = strings.Cut(uri, "/")
	return host, "/" + path
}

// Post sends body and reports any answer but 2xx as an error.
func (h *HTTP) Post(ctx context.Context, contentType string, body []byte) error {
	if h.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.Timeout)
		defer cancel()
	}
	head := h.Header.Clone()
	if head == nil {
		head = http.Header{}
	}
	head.Set("Content-Type", contentType)
	resp, err := rpc.Do(ctx, h.Clusters, h.Cluster, 1, rpc.Request{Method: http.MethodPost, Host: h.Host, Path: h.Path, Header: head, Body: body})
	if err != nil {
		return err
	}
	if resp.Status/100 != 2 {
		return fmt.Errorf("HTTP status %d", resp.Status)
	}
	return nil
}
