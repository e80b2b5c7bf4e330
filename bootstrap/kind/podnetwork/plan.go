// Package podnetwork is the pod network of a node image made from the payload, one agent
// on each node: it gives the node's containerd a CNI configuration, lays a route to
// each other node's pods, and lets pods out under the node's address. It is to such an
// image what kindnet is to kind's own. It knows nothing of kind, and no policies.
package podnetwork

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Route leads to the pods of another node.
type Route struct {
	Pods netip.Prefix
	Via  netip.Addr
}

// Plan is what a node has to be given.
type Plan struct {
	Pods   netip.Prefix   // of this node
	Routes []Route        // sorted by Pods
	Inside []netip.Prefix // pods and nodes; what goes there keeps the pod's address
}

// plan says what the node called self needs, as far as the nodes tell: one that has no
// pod addresses or no address yet is left out. The error is that of self.
func plan(self string, nodes []*corev1.Node) (Plan, error) {
	var p Plan
	for _, n := range nodes {
		pods, err := netip.ParsePrefix(n.Spec.PodCIDR)
		if err != nil || !pods.Addr().Is4() {
			if n.Name == self {
				return Plan{}, fmt.Errorf("node %s has no IPv4 pod addresses (podCIDR %q)", self, n.Spec.PodCIDR)
			}
			continue
		}
		ip, ok := internalIP(n)
		if !ok {
			continue
		}
		p.Inside = append(p.Inside, pods, netip.PrefixFrom(ip, 32))
		if n.Name == self {
			p.Pods = pods
		} else {
			p.Routes = append(p.Routes, Route{Pods: pods, Via: ip})
		}
	}
	if !p.Pods.IsValid() {
		return Plan{}, fmt.Errorf("node %s has not reported", self)
	}
	slices.SortFunc(p.Routes, func(a, b Route) int { return a.Pods.Compare(b.Pods) })
	slices.SortFunc(p.Inside, netip.Prefix.Compare)
	return p, nil
}

func internalIP(n *corev1.Node) (netip.Addr, bool) {
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP && ip.Is4() {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// cni is the node's CNI configuration: ptp gives each pod a routed veth pair, portmap
// serves hostPort.
func (p Plan) cni() []byte {
	type object = map[string]any
	data, err := json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       "ropes",
		"plugins": []object{
			{
				"type": "ptp", "ipMasq": false, "mtu": 1500,
				"ipam": object{
					"type": "host-local", "dataDir": "/run/cni-ipam",
					"ranges": [][]object{{{"subnet": p.Pods.String()}}},
					"routes": []object{{"dst": "0.0.0.0/0"}},
				},
			},
			{"type": "portmap", "backend": "nftables", "capabilities": object{"portMappings": true}},
		},
	}, "", "  ")
	if err != nil {
		panic(err) // plain maps of strings always marshal
	}
	return append(data, '\n')
}
