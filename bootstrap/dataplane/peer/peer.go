// Package peer knows Istio's workload identity: what a proxy tells its peers about itself in x-envoy-peer-metadata and
// in TCP metadata exchange, and the labels of Istio's standard metrics that follow from it.
//
// It knows no request, no filter and no connection pool.
package peer

import (
	"encoding/base64"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// Header names of the exchange, in canonical form.
const (
	MetadataHeader = "X-Envoy-Peer-Metadata"
	IDHeader       = "X-Envoy-Peer-Metadata-Id"
)

// Info is one workload. Empty strings mean unknown.
type Info struct {
	ID, Name, Namespace, Workload, Owner, Cluster  string
	CanonicalName, CanonicalRevision, App, Version string
}

// FromNode reads a workload from a bootstrap node: its id and metadata.
func FromNode(id string, meta *structpb.Struct) *Info {
	i := fromStruct(meta)
	i.ID = id
	return i
}

func fromStruct(s *structpb.Struct) *Info {
	f := func(k string) string { return s.GetFields()[k].GetStringValue() }
	labels := s.GetFields()["LABELS"].GetStructValue()
	l := func(k string) string { return labels.GetFields()[k].GetStringValue() }
	i := &Info{
		Name: f("NAME"), Namespace: f("NAMESPACE"), Workload: f("WORKLOAD_NAME"), Owner: f("OWNER"), Cluster: f("CLUSTER_ID"),
		CanonicalName: l("service.istio.io/canonical-name"), CanonicalRevision: l("service.istio.io/canonical-revision"),
		App: l("app"), Version: l("version"),
	}
	if i.CanonicalName == "" {
		i.CanonicalName = i.Workload
	}
	if i.CanonicalRevision == "" {
		i.CanonicalRevision = "latest"
	}
	return i
}

// Struct renders i as the exchange carries it.
func (i *Info) Struct() *structpb.Struct {
	labels := map[string]*structpb.Value{}
	set := func(m map[string]*structpb.Value, k, v string) {
		if v != "" {
			m[k] = structpb.NewStringValue(v)
		}
	}
	set(labels, "service.istio.io/canonical-name", i.CanonicalName)
	set(labels, "service.istio.io/canonical-revision", i.CanonicalRevision)
	set(labels, "app", i.App)
	set(labels, "version", i.Version)
	out := map[string]*structpb.Value{}
	set(out, "NAME", i.Name)
	set(out, "NAMESPACE", i.Namespace)
	set(out, "WORKLOAD_NAME", i.Workload)
	set(out, "OWNER", i.Owner)
	set(out, "CLUSTER_ID", i.Cluster)
	out["LABELS"] = structpb.NewStructValue(&structpb.Struct{Fields: labels})
	return &structpb.Struct{Fields: out}
}

// Encode renders i for MetadataHeader: base64 of the struct's deterministic serialisation.
func (i *Info) Encode() string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(i.Struct())
	if err != nil {
		return ""
	}
	return base64.StdEncoding.EncodeToString(b)
}

// maxHeader bounds what Decode looks at; peers are not trusted.
const maxHeader = 16 << 10

// Decode parses the two headers. It returns nil for anything that is not a struct.
func Decode(id, metadata string) *Info {
	if metadata == "" || len(metadata) > maxHeader {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(metadata)
	if err != nil {
		if b, err = base64.RawStdEncoding.DecodeString(metadata); err != nil {
			return nil
		}
	}
	s := &structpb.Struct{}
	if proto.Unmarshal(b, s) != nil {
		return nil
	}
	i := fromStruct(s)
	i.ID = id
	return i
}

// Service is a destination service as Istio names it.
type Service struct{ Host, Name, Namespace string }

// ServiceOf reads the first service of a cluster's "istio" metadata; the cluster name gives the host where there is
// none.
func ServiceOf(services any, clusterName string) Service {
	if list, ok := services.([]any); ok && len(list) > 0 {
		if m, ok := list[0].(map[string]any); ok {
			s := func(k string) string { v, _ := m[k].(string); return v }
			return Service{s("host"), s("name"), s("namespace")}
		}
	}
	if parts := strings.Split(clusterName, "|"); len(parts) == 4 && parts[3] != "" {
		return Service{Host: parts[3]}
	}
	switch clusterName {
	case "PassthroughCluster", "BlackHoleCluster", "InboundPassthroughCluster":
		return Service{Host: clusterName, Name: clusterName}
	}
	return Service{}
}
