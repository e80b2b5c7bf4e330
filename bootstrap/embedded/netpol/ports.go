package netpol

import (
	"cmp"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// newRule joins peers and ports. targets are the pods whose container ports a named
// port may stand for.
func newRule(who peers, ports []networkingv1.NetworkPolicyPort, targets []Pod) Rule {
	rule := Rule{AnyPeer: who.any, Peers: who.ranges, AnyPort: len(ports) == 0}
	for _, p := range ports {
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		if p.Port != nil && p.Port.Type == intstr.String {
			rule.Named = append(rule.Named, resolve(p.Port.StrVal, protocol, targets)...)
			continue
		}
		if rule.Ports == nil {
			rule.Ports = map[corev1.Protocol][]portRange{}
		}
		rule.Ports[protocol] = unionPorts(append(rule.Ports[protocol], numbers(p)))
	}
	slices.SortFunc(rule.Named, compareEndpoints)
	rule.Named = slices.Compact(rule.Named)
	return rule
}

// numbers is the ports that a numeric port, with or without endPort, or no port
// at all, stands for.
func numbers(p networkingv1.NetworkPolicyPort) portRange {
	switch {
	case p.Port == nil:
		return portRange{lo: 0, hi: math.MaxUint16}
	case p.EndPort != nil:
		return portRange{lo: uint16(p.Port.IntVal), hi: uint16(*p.EndPort)}
	default:
		return portRange{lo: uint16(p.Port.IntVal), hi: uint16(p.Port.IntVal)}
	}
}

// resolve lists where the port of that name and protocol is on each of the pods. A
// pod without such a port has no part in the rule.
func resolve(name string, protocol corev1.Protocol, targets []Pod) (found []endpoint) {
	for _, pod := range targets {
		for _, port := range pod.Ports {
			if port.Name == name && port.Protocol == protocol {
				found = append(found, endpoint{ip: pod.IP, protocol: protocol, port: port.Number})
			}
		}
	}
	return found
}

func compareEndpoints(a, b endpoint) int {
	return cmp.Or(a.ip.Compare(b.ip), strings.Compare(string(a.protocol), string(b.protocol)), cmp.Compare(a.port, b.port))
}

// appendUseful adds the rule unless no packet can match it.
func appendUseful(rules []Rule, r Rule) []Rule {
	if !r.AnyPeer && len(r.Peers) == 0 {
		return rules
	}
	if !r.AnyPort && len(r.Ports) == 0 && len(r.Named) == 0 {
		return rules
	}
	return append(rules, r)
}
