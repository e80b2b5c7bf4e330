package hcm

import (
	"net/http"

	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/registry"
)

// checkPeerMetadata refuses methods that are neither headers nor the discovery of workloads, which finds nothing here.
func checkPeerMetadata(cfg *structpb.Struct) error {
	const message = "io.istio.http.peer_metadata.Config."
	for field, v := range cfg.GetFields() {
		switch field {
		case "additional_labels":
			continue
		case "downstream_discovery", "downstream_propagation", "upstream_discovery", "upstream_propagation":
		default:
			return &fields.UnsupportedError{Path: message + field}
		}
		for _, m := range v.GetListValue().GetValues() {
			for method := range m.GetStructValue().GetFields() {
				if method != "istio_headers" && method != "workload_discovery" {
					return &fields.UnsupportedError{Path: message + field + "." + method, Why: "ambient mode"}
				}
			}
		}
	}
	return nil
}

// maxPeers is how many workloads a proxy remembers.
const maxPeers = 1000

// newPeerMetadata exchanges workload identities in headers: it takes the peer's off what comes in and puts our own on
// what goes out. Discovery methods other than headers find nothing here.
func newPeerMetadata(m *Manager, name string, body *anypb.Any) (filter, error) {
	cfg, err := registry.Struct(body)
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
	if err := checkPeerMetadata(cfg); err != nil {
		return filter{}, err
	}
	downRead, _ := has("downstream_discovery")
	downWrite, _ := has("downstream_propagation")
	upRead, _ := has("upstream_discovery")
	upWrite, opts := has("upstream_propagation")
	skipExternal := opts.GetFields()["skip_external_clusters"].GetBoolValue()
	var additional []string
	for _, v := range cfg.GetFields()["additional_labels"].GetListValue().GetValues() {
		additional = append(additional, v.GetStringValue())
	}
	own, id := m.env.Self.Encode(additional...), m.env.Self.ID
	known := m.env.Peers
	if known == nil {
		known = peer.NewCache(maxPeers)
	}
	f := filter{name: name}
	f.request = func(s *Stream) *reply {
		h := s.req.Header
		if downRead {
			s.downPeer = known.Decode(first(h, peer.IDHeader), first(h, peer.MetadataHeader))
			delete(h, peer.IDHeader)
			delete(h, peer.MetadataHeader)
		}
		if upWrite && (!skipExternal || !external(s)) {
			h[peer.IDHeader], h[peer.MetadataHeader] = []string{id}, []string{own}
		}
		return nil
	}
	f.response = func(s *Stream, _ int, h http.Header) {
		if upRead {
			s.upPeer = known.Decode(first(h, peer.IDHeader), first(h, peer.MetadataHeader))
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
