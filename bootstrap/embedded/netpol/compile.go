package netpol

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Compile computes the rules for the snapshot's node. An error names the policy that
// could not be read; the API server lets no such policy in.
func Compile(s Snapshot) (*Ruleset, error) {
	s.Pods = slices.SortedFunc(slices.Values(s.Pods), func(a, b Pod) int {
		return cmp.Or(a.IP.Compare(b.IP), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	s.Policies = slices.SortedFunc(slices.Values(s.Policies), func(a, b *networkingv1.NetworkPolicy) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	c := compiler{snapshot: s, out: new(Ruleset)}
	ingress, egress := newSide(), newSide()
	for _, p := range s.Policies {
		if err := c.policy(p, ingress, egress); err != nil {
			return nil, fmt.Errorf("network policy %s/%s: %w", p.Namespace, p.Name, err)
		}
	}
	c.out.Ingress, c.out.Egress = ingress.finish(Ingress), egress.finish(Egress)
	for _, pod := range s.Pods {
		_, in := c.out.Ingress.Isolated[pod.IP]
		_, out := c.out.Egress.Isolated[pod.IP]
		if pod.Node == s.Node && (in || out) {
			c.out.Self = append(c.out.Self, pod.IP)
		}
	}
	return c.out, nil
}

// compiler holds what all policies of one Compile share.
type compiler struct {
	snapshot Snapshot
	out      *Ruleset
}

// side gathers one direction before its pods are grouped.
type side struct {
	selecting map[netip.Addr][]string // names of the policies that select a pod
	policies  map[string][]Rule
}

func newSide() *side {
	return &side{selecting: map[netip.Addr][]string{}, policies: map[string][]Rule{}}
}

func (c *compiler) policy(p *networkingv1.NetworkPolicy, ingress, egress *side) error {
	selector, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
	if err != nil {
		return fmt.Errorf("spec.podSelector: %w", err)
	}
	var selected []Pod
	for _, pod := range c.snapshot.Pods {
		if pod.Node == c.snapshot.Node && pod.Namespace == p.Namespace && selector.Matches(pod.Labels) {
			selected = append(selected, pod)
		}
	}
	if len(selected) == 0 {
		return nil
	}
	isIngress, isEgress := directions(p)
	if isIngress {
		var rules []Rule
		for i, r := range p.Spec.Ingress {
			rule, err := c.ingressRule(p, r, selected)
			if err != nil {
				return fmt.Errorf("spec.ingress[%d]: %w", i, err)
			}
			rules = appendUseful(rules, rule)
		}
		ingress.add(policyName(Ingress, p), rules, selected)
	}
	if isEgress {
		var rules []Rule
		for i, r := range p.Spec.Egress {
			rule, err := c.egressRule(p, r)
			if err != nil {
				return fmt.Errorf("spec.egress[%d]: %w", i, err)
			}
			rules = appendUseful(rules, rule)
		}
		egress.add(policyName(Egress, p), rules, selected)
	}
	return nil
}

// directions says what p isolates, with the defaults of the API.
func directions(p *networkingv1.NetworkPolicy) (ingress, egress bool) {
	if len(p.Spec.PolicyTypes) == 0 {
		return true, len(p.Spec.Egress) > 0
	}
	return slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress),
		slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
}

func (c *compiler) ingressRule(p *networkingv1.NetworkPolicy, r networkingv1.NetworkPolicyIngressRule, selected []Pod) (Rule, error) {
	who, err := c.peers(p, r.From)
	if err != nil {
		return Rule{}, err
	}
	return newRule(who, r.Ports, selected), nil
}

func (c *compiler) egressRule(p *networkingv1.NetworkPolicy, r networkingv1.NetworkPolicyEgressRule) (Rule, error) {
	who, err := c.peers(p, r.To)
	if err != nil {
		return Rule{}, err
	}
	var targets []Pod
	for _, pod := range c.snapshot.Pods {
		if who.any || contains(who.ranges, pod.IP) {
			targets = append(targets, pod)
		}
	}
	return newRule(who, r.Ports, targets), nil
}

// peers is the addresses that a rule's peers stand for.
type peers struct {
	any    bool
	ranges []addrRange
}

func (c *compiler) peers(p *networkingv1.NetworkPolicy, list []networkingv1.NetworkPolicyPeer) (peers, error) {
	if len(list) == 0 {
		return peers{any: true}, nil
	}
	var all []addrRange
	for _, peer := range list {
		var ranges []addrRange
		var err error
		if peer.IPBlock != nil {
			ranges, err = c.block(p, peer.IPBlock)
		} else {
			ranges, err = c.selected(p.Namespace, peer)
		}
		if err != nil {
			return peers{}, err
		}
		all = append(all, ranges...)
	}
	return peers{ranges: union(all)}, nil
}

// block is the addresses of an ipBlock without its exceptions.
func (c *compiler) block(p *networkingv1.NetworkPolicy, b *networkingv1.IPBlock) ([]addrRange, error) {
	prefix, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return nil, fmt.Errorf("ipBlock: %w", err)
	}
	if !prefix.Addr().Is4() {
		c.out.Warnings = append(c.out.Warnings, Warning{
			Namespace: p.Namespace, Policy: p.Name,
			Message: fmt.Sprintf("ipBlock %s matches nothing: this cluster has IPv4 addresses only", b.CIDR),
		})
		return nil, nil
	}
	ranges := []addrRange{prefixRange(prefix)}
	for _, e := range b.Except {
		except, err := netip.ParsePrefix(e)
		if err != nil {
			return nil, fmt.Errorf("ipBlock except: %w", err)
		}
		if except.Addr().Is4() {
			ranges = subtract(ranges, prefixRange(except))
		}
	}
	return ranges, nil
}

// selected is the addresses of the pods that a peer's selectors match.
func (c *compiler) selected(namespace string, peer networkingv1.NetworkPolicyPeer) (ranges []addrRange, err error) {
	pods, namespaces := labels.Everything(), labels.Nothing()
	if peer.PodSelector != nil {
		if pods, err = metav1.LabelSelectorAsSelector(peer.PodSelector); err != nil {
			return nil, fmt.Errorf("podSelector: %w", err)
		}
	}
	if peer.NamespaceSelector != nil {
		if namespaces, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
			return nil, fmt.Errorf("namespaceSelector: %w", err)
		}
	}
	for _, pod := range c.snapshot.Pods {
		inNamespace := pod.Namespace == namespace
		if peer.NamespaceSelector != nil {
			set, known := c.snapshot.Namespaces[pod.Namespace]
			inNamespace = known && namespaces.Matches(set)
		}
		if inNamespace && pods.Matches(pod.Labels) {
			ranges = append(ranges, addrRange{lo: pod.IP, hi: pod.IP})
		}
	}
	return ranges, nil
}

func (s *side) add(name string, rules []Rule, selected []Pod) {
	s.policies[name] = rules
	for _, pod := range selected {
		s.selecting[pod.IP] = append(s.selecting[pod.IP], name)
	}
}

// finish groups the pods by the policies that select them.
func (s *side) finish(d Direction) Side {
	out := Side{Isolated: map[netip.Addr]string{}, Groups: map[string][]string{}, Policies: s.policies}
	for ip, names := range s.selecting {
		names = slices.Compact(slices.Sorted(slices.Values(names)))
		group := fmt.Sprintf("%s-pods-%s", d, digest(strings.Join(names, " ")))
		out.Isolated[ip] = group
		out.Groups[group] = names
	}
	return out
}

// maxName keeps names of sets, which add a suffix to a policy's, within nftables' 255.
const maxName = 200

// policyName is the chain's name for a policy: what the learner calls it, shortened
// with a digest in the rare case that it is too long for nftables.
func policyName(d Direction, p *networkingv1.NetworkPolicy) string {
	name := fmt.Sprintf("%s-%s/%s", d, p.Namespace, p.Name)
	if len(name) > maxName {
		name = name[:maxName-13] + "-" + digest(name)
	}
	return name
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}
