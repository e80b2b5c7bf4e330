package netpol

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Direction is the side of a pod that a rule is about.
type Direction string

// The directions, as they appear in the names of chains and sets.
const (
	Ingress Direction = "ingress"
	Egress  Direction = "egress"
)

// Ruleset is all that a node enforces, as data. Its slices are sorted, so that equal
// rules are equal values.
type Ruleset struct {
	Ingress, Egress Side
	// Self are the node's isolated pods; a pod may always reach itself.
	Self []netip.Addr
	// Warnings say which parts of which policies have no effect.
	Warnings []Warning
}

// Side is the rules of one direction.
type Side struct {
	// Isolated maps the address of each isolated pod of the node to its group. Pods
	// that are not in it are not isolated in this direction: all may pass.
	Isolated map[netip.Addr]string
	// Groups maps a group, which is the pods that the same policies select, to the
	// names of those policies. What none of them allows is dropped.
	Groups map[string][]string
	// Policies are the rules by policy name.
	Policies map[string][]Rule
}

// Rule allows traffic. The peer is the source for Ingress and the destination for
// Egress; ports are always the destination's.
type Rule struct {
	AnyPeer bool
	Peers   []addrRange // sorted and disjoint
	AnyPort bool
	Ports   map[corev1.Protocol][]portRange
	// Named are the endpoints that named ports stand for: of the selected pods for
	// Ingress, of the peers for Egress.
	Named []endpoint
}

// endpoint is one destination.
type endpoint struct {
	ip       netip.Addr
	protocol corev1.Protocol
	port     uint16
}

// Warning says that a part of a policy has no effect here, and why.
type Warning struct {
	Namespace, Policy string
	Message           string
}
