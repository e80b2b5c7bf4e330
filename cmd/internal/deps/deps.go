//go:build deps

// Package deps keeps in go.mod what no package of ours imports: the programs that the
// payload takes straight from their modules, and modules of the issues to come, whose
// arrival must not move the versions that build together. It is never compiled.
package deps

import (
	// Programs of the payload, see .build/payload.
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containernetworking/plugins/plugins/ipam/host-local"
	_ "github.com/containernetworking/plugins/plugins/main/loopback"
	_ "github.com/containernetworking/plugins/plugins/main/ptp"
	_ "github.com/containernetworking/plugins/plugins/meta/portmap"
	_ "github.com/opencontainers/runc"
	_ "istio.io/istio/pilot/cmd/pilot-discovery"

	// For the providers kind and existing, and for the Gateway API's conformance suite.
	_ "sigs.k8s.io/gateway-api/conformance"
	_ "sigs.k8s.io/kind/pkg/cluster"
)
