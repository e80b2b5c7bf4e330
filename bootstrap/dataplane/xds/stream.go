package xds

import (
	"context"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

func (c *Client) open(ctx context.Context, conn *grpc.ClientConn) (transport, error) {
	wait := grpc.WaitForReady(false)
	switch c.cfg.Mode {
	case Delta:
		st, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx, wait)
		if err != nil {
			return nil, fmt.Errorf("open delta stream: %w", err)
		}
		return &deltaStream{st: st, node: c.cfg.Node}, nil
	case StateOfWorld:
		st, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx, wait)
		if err != nil {
			return nil, fmt.Errorf("open aggregated stream: %w", err)
		}
		return &worldStream{st: st, node: c.cfg.Node}, nil
	case SecretService:
		st, err := secretv3.NewSecretDiscoveryServiceClient(conn).StreamSecrets(ctx, wait)
		if err != nil {
			return nil, fmt.Errorf("open secret stream: %w", err)
		}
		return &worldStream{st: st, node: c.cfg.Node}, nil
	}
	return nil, fmt.Errorf("mode %d: not supported", c.cfg.Mode)
}

type deltaStream struct {
	st   discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	node *corev3.Node
}

func (d *deltaStream) send(s *subscription, first bool) error {
	req := s.delta()
	if first {
		req.Node = d.node
	}
	return d.st.Send(req)
}

func (d *deltaStream) ack(s *subscription, nonce string, err error) error {
	return d.st.Send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: s.typeURL, ResponseNonce: nonce, ErrorDetail: detail(err),
	})
}

func (d *deltaStream) recv() (Update, string, error) {
	resp, err := d.st.Recv()
	if err != nil {
		return Update{}, "", err
	}
	u := Update{Type: resp.GetTypeUrl(), Version: resp.GetSystemVersionInfo(), Removed: resp.GetRemovedResources()}
	for _, r := range resp.GetResources() {
		u.Resources = append(u.Resources, Resource{Name: r.GetName(), Version: r.GetVersion(), Body: r.GetResource()})
	}
	return u, resp.GetNonce(), nil
}

// worldSender is what StreamAggregatedResources and StreamSecrets share.
type worldSender interface {
	Send(*discoveryv3.DiscoveryRequest) error
	Recv() (*discoveryv3.DiscoveryResponse, error)
}

type worldStream struct {
	st   worldSender
	node *corev3.Node
}

func (w *worldStream) send(s *subscription, first bool) error {
	if !s.opened && !Wildcard(s.typeURL) && len(s.names) == 0 {
		s.markSent()
		return nil // an empty first request would mean "everything"
	}
	req := s.world()
	if first {
		req.Node = w.node
	}
	return w.st.Send(req)
}

func (w *worldStream) ack(s *subscription, nonce string, err error) error {
	s.nonce = nonce
	req := s.world()
	req.ErrorDetail = detail(err)
	return w.st.Send(req)
}

func (w *worldStream) recv() (Update, string, error) {
	resp, err := w.st.Recv()
	if err != nil {
		return Update{}, "", err
	}
	u := Update{Type: resp.GetTypeUrl(), Version: resp.GetVersionInfo(), Full: Wildcard(resp.GetTypeUrl())}
	for _, body := range resp.GetResources() {
		name, err := ResourceName(body)
		if err != nil {
			return Update{}, "", err
		}
		u.Resources = append(u.Resources, Resource{Name: name, Version: resp.GetVersionInfo(), Body: body})
	}
	return u, resp.GetNonce(), nil
}

func detail(err error) *status.Status {
	if err == nil {
		return nil
	}
	return &status.Status{Code: int32(codes.InvalidArgument), Message: err.Error()}
}
