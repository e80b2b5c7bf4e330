package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// Service is a gRPC server behind a cluster.
type Service struct {
	Clusters  *cluster.Manager
	Cluster   string
	Authority string      // the cluster's name where empty
	Metadata  http.Header // goes with each call
}

// Compile translates p but for its timeout, whose default is the caller's.
func Compile(p *corev3.GrpcService, clusters *cluster.Manager) (*Service, error) {
	if err := fields.Check(p, "envoy_grpc timeout initial_metadata"); err != nil {
		return nil, err
	}
	e := p.GetEnvoyGrpc()
	if err := fields.Check(e, "cluster_name authority"); err != nil {
		return nil, err
	}
	if e.GetClusterName() == "" {
		return nil, errors.New("grpc_service: envoy_grpc.cluster_name must not be empty")
	}
	out := &Service{Clusters: clusters, Cluster: e.GetClusterName(), Authority: e.GetAuthority(), Metadata: http.Header{}}
	for _, h := range p.GetInitialMetadata() {
		out.Metadata.Add(h.GetKey(), h.GetValue())
	}
	return out, nil
}

// Call makes the unary call method ("/package.Service/Method"). Errors that the server gave are gRPC status errors.
func (s *Service) Call(ctx context.Context, method string, in, out proto.Message) error {
	resp, err := s.send(ctx, method, in)
	if err != nil {
		return err
	}
	if len(resp.Body) < 5 || resp.Body[0] != 0 || int(binary.BigEndian.Uint32(resp.Body[1:])) != len(resp.Body)-5 {
		return status.Error(codes.Internal, "response is not one uncompressed message")
	}
	return proto.Unmarshal(resp.Body[5:], out)
}

// Send makes a call with one message in whose response only the status counts: a server of a client's stream may give
// no message.
func (s *Service) Send(ctx context.Context, method string, in proto.Message) error {
	_, err := s.send(ctx, method, in)
	return err
}

func (s *Service) send(ctx context.Context, method string, in proto.Message) (*Response, error) {
	msg, err := proto.Marshal(in)
	if err != nil {
		return nil, err
	}
	framed := make([]byte, 5, 5+len(msg))
	binary.BigEndian.PutUint32(framed[1:], uint32(len(msg)))
	framed = append(framed, msg...)
	h := s.Metadata.Clone()
	if h == nil {
		h = http.Header{}
	}
	h["Content-Type"], h["Te"] = []string{"application/grpc"}, []string{"trailers"}
	if at, ok := ctx.Deadline(); ok {
		h["Grpc-Timeout"] = []string{strconv.FormatInt(max(time.Until(at).Milliseconds(), 1), 10) + "m"}
	}
	host := s.Authority
	if host == "" {
		host = s.Cluster
	}
	resp, err := Do(ctx, s.Clusters, s.Cluster, 2, Request{Method: http.MethodPost, Host: host, Path: method, Header: h, Body: framed})
	if err != nil {
		return nil, err
	}
	return resp, result(resp)
}

// result reads the status of a call from the trailers, or from the head where there is no body.
func result(r *Response) error {
	if r.Status != http.StatusOK {
		return status.Errorf(codes.Unavailable, "HTTP status %d", r.Status)
	}
	text, from := r.Trailer.Get("Grpc-Status"), r.Trailer
	if text == "" {
		text, from = r.Header.Get("Grpc-Status"), r.Header
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return status.Error(codes.Unknown, "no grpc-status in the response")
	}
	if n == 0 {
		return nil
	}
	message := from.Get("Grpc-Message")
	if plain, err := url.PathUnescape(message); err == nil {
		message = plain
	}
	return status.Error(codes.Code(n), message)
}
