package hcm

import (
	"net/http"

	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
)

// newPeerMetadata exchanges workload identities in headers: it takes the peer's off what comes in and puts our own on
// what goes out. Discovery methods other than headers find nothing here.
func newPeerMetadata(m *Manager, name string, body *anypb.Any) (filter, error) {
	_, cfg, err := registry.Unwrap(body)
	if err != nil {
		return filter{}, err
	}
	has := func(field string) (bool, *structpb.Struct) {
		for _, v := range cfg.GetFields()[field].GetListValue().GetValues() {
			if h, ok := v.GetStructValue().GetFields()["istio_headers"]; ok {
				return true, h.GetStructValue()
			}
		}
		return false, nil
	}
	downRead, _ := has("downstream_discovery")
	downWrite, _ := has("downstream_propagation")
	upRead, _ := has("upstream_discovery")
	upWrite, opts := has("upstream_propagation")
	skipExternal := opts.GetFields()["skip_external_clusters"].GetBoolValue()
	own, id := m.env.Self.Encode(), m.env.Self.ID
	f := filter{name: name}
	f.request = func(s *Stream) *reply {
		h := s.req.Header
		if downRead {
			s.downPeer = peer.Decode(h.Get(peer.IDHeader), h.Get(peer.MetadataHeader))
			delete(h, peer.IDHeader)
			delete(h, peer.MetadataHeader)
		}
		if upWrite && !(skipExternal && external(s)) {
			h[peer.IDHeader], h[peer.MetadataHeader] = []string{id}, []string{own}
		}
		return nil
	}
	f.response = func(s *Stream, _ int, h http.Header) {
		if upRead {
			s.upPeer = peer.Decode(h.Get(peer.IDHeader), h.Get(peer.MetadataHeader))
			delete(h, peer.IDHeader)
			delete(h, peer.MetadataHeader)
		}
		// Only a peer that has told us who it is wants to know who we are.
		if downWrite && s.downPeer != nil {
			h[peer.IDHeader], h[peer.MetadataHeader] = []string{id}, []string{own}
		}
	}
	return f, nil
}

// external reports whether the request leaves the mesh.
func external(s *Stream) bool {
	if s.cluster == nil || s.clusterN == "PassthroughCluster" {
		return true
	}
	v, ok := s.cluster.Metadata("istio", "external")
	return ok && v == true
}
