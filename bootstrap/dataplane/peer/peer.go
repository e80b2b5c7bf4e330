// Package peer knows Istio's workload identity: what a proxy tells its peers about itself in x-envoy-peer-metadata and
// in TCP metadata exchange, and what istiod says of an endpoint's workload.
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
	Release                                        string // of Istio, of one's own proxy only
	Labels                                         map[string]string
}

// FromNode reads a workload from a bootstrap node: its id and metadata.
func FromNode(id string, meta *structpb.Struct) *Info {
	i := fromStruct(meta)
	i.ID = id
	i.Release = meta.GetFields()["ISTIO_VERSION"].GetStringValue()
	return i
}

// FromEndpoint reads what istiod says of an endpoint's workload: name, namespace, canonical name and revision, and
// cluster, with semicolons between them. It returns nil where that says nothing.
func FromEndpoint(text string) *Info {
	parts := strings.Split(text, ";")
	if len(parts) < 5 {
		return nil
	}
	return &Info{
		Workload: parts[0], Namespace: parts[1], CanonicalName: parts[2], CanonicalRevision: parts[3], Cluster: parts[4],
	}
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
	for k, v := range labels.GetFields() {
		if i.Labels == nil {
			i.Labels = make(map[string]string, len(labels.GetFields()))
		}
		i.Labels[k] = v.GetStringValue()
	}
	if i.CanonicalName == "" {
		i.CanonicalName = i.Workload
	}
	if i.CanonicalRevision == "" {
		i.CanonicalRevision = "latest"
	}
	return i
}

// Struct renders i as the exchange carries it, with the labels that everybody wants to know and the additional ones.
func (i *Info) Struct(additional ...string) *structpb.Struct {
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
	for _, k := range additional {
		set(labels, k, i.Labels[k])
	}
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
func (i *Info) Encode(additional ...string) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(i.Struct(additional...))
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

// Attributes shows i as the filter state objects upstream_peer and downstream_peer do.
func (i *Info) Attributes() map[string]any {
	out := map[string]any{}
	for k, v := range map[string]string{
		"name": i.Name, "namespace": i.Namespace, "workload": i.Workload, "cluster": i.Cluster, "type": i.Kind(),
		"service": i.CanonicalName, "revision": i.CanonicalRevision, "app": i.App, "version": i.Version,
	} {
		if v != "" {
			out[k] = v
		}
	}
	labels := make(map[string]any, len(i.Labels))
	for k, v := range i.Labels {
		labels[k] = v
	}
	out["labels"] = labels
	return out
}

// Kind is the kind of workload that owns the pod: deployment, job, cronjob or pod.
func (i *Info) Kind() string {
	for _, kind := range []string{"deployment", "cronjob", "job"} {
		if strings.Contains(i.Owner, "/"+kind+"s/") {
			return kind
		}
	}
	if i.Owner == "" && i.Name == "" {
		return ""
	}
	return "pod"
}
