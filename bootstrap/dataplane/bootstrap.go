package dataplane

import (
	"fmt"
	"os"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// LoadBootstrap reads the bootstrap file (JSON or YAML) and merges ConfigYAML over it, as Envoy does. Unknown fields
// are passed over: pilot-agent asks for that with --allow-unknown-static-fields.
func LoadBootstrap(o Options) (*bootstrapv3.Bootstrap, error) {
	out := &bootstrapv3.Bootstrap{}
	if o.ConfigPath != "" {
		raw, err := os.ReadFile(o.ConfigPath)
		if err != nil {
			return nil, fmt.Errorf("read bootstrap: %w", err)
		}
		if err := unmarshal(raw, out); err != nil {
			return nil, fmt.Errorf("bootstrap %s: %w", o.ConfigPath, err)
		}
	}
	if o.ConfigYAML != "" {
		over := &bootstrapv3.Bootstrap{}
		if err := unmarshal([]byte(o.ConfigYAML), over); err != nil {
			return nil, fmt.Errorf("--config-yaml: %w", err)
		}
		proto.Merge(out, over)
	}
	return out, nil
}

func unmarshal(raw []byte, into proto.Message) error {
	js, err := yaml.YAMLToJSON(raw)
	if err != nil {
		return err
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(js, into)
}

// adsConfig finds the management server of a bootstrap: its cluster and the protocol variant. An empty cluster means
// that there is none.
func adsConfig(b *bootstrapv3.Bootstrap) (cluster string, mode xds.Mode, err error) {
	d := b.GetDynamicResources()
	a := d.GetAdsConfig()
	if a == nil {
		return "", 0, nil
	}
	for name, src := range map[string]*corev3.ConfigSource{"lds_config": d.GetLdsConfig(), "cds_config": d.GetCdsConfig()} {
		if src == nil {
			continue
		}
		if s, err := tlsctx.ConfigSource(src); err != nil || s != tlsctx.ADS {
			return "", 0, fields.Unsupported(d, name, "only ADS")
		}
	}
	switch a.GetApiType() {
	case corev3.ApiConfigSource_DELTA_GRPC, corev3.ApiConfigSource_AGGREGATED_DELTA_GRPC:
		mode = xds.Delta
	case corev3.ApiConfigSource_GRPC, corev3.ApiConfigSource_AGGREGATED_GRPC:
		mode = xds.StateOfWorld
	default:
		return "", 0, fields.Unsupported(a, "api_type", a.GetApiType().String())
	}
	services := a.GetGrpcServices()
	if len(services) != 1 || services[0].GetEnvoyGrpc() == nil {
		return "", 0, fields.Unsupported(a, "grpc_services", "one envoy_grpc service is expected")
	}
	return services[0].GetEnvoyGrpc().GetClusterName(), mode, nil
}
