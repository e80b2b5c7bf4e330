package netpol

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/knftables"
)

// tableName is the nftables table that is ours alone.
const tableName = "ropes-network-policy"

const selfSet = "self"

// transaction replaces the whole table with the ruleset, in one step as far as
// packets can see.
func transaction(nft knftables.Interface, r *Ruleset) *knftables.Transaction {
	w := writer{tx: nft.NewTransaction()}
	table := &knftables.Table{Comment: knftables.PtrTo("NetworkPolicy of this node's pods, by ropes")}
	w.tx.Add(table)
	w.tx.Delete(table)
	w.tx.Add(table)

	w.tx.Add(&knftables.Set{Name: selfSet, Type: "ipv4_addr . ipv4_addr"})
	for _, ip := range r.Self {
		w.tx.Add(&knftables.Element{Set: selfSet, Key: []string{ip.String(), ip.String()}})
	}
	// Egress is judged in a base chain of its own, before ingress: what one accepts
	// must still pass the other.
	w.side(Egress, r.Egress, "filter")
	w.side(Ingress, r.Ingress, "filter + 1")
	return w.tx
}

type writer struct {
	tx *knftables.Transaction
}

// near is the address of a direction's own pod, far its peer's.
func (d Direction) near() string {
	if d == Ingress {
		return "ip daddr"
	}
	return "ip saddr"
}

func (d Direction) far() string {
	if d == Ingress {
		return "ip saddr"
	}
	return "ip daddr"
}

func (w writer) side(d Direction, s Side, priority knftables.BaseChainPriority) {
	for _, name := range slices.Sorted(maps.Keys(s.Policies)) {
		w.tx.Add(&knftables.Chain{Name: name})
		for i, r := range s.Policies[name] {
			w.rule(d, name, fmt.Sprintf("%s/%d", name, i), r)
		}
	}
	for _, group := range slices.Sorted(maps.Keys(s.Groups)) {
		w.tx.Add(&knftables.Chain{Name: group})
		for _, policy := range s.Groups[group] {
			w.tx.Add(&knftables.Rule{Chain: group, Rule: "jump " + policy})
		}
		w.tx.Add(&knftables.Rule{Chain: group, Rule: "counter drop", Comment: knftables.PtrTo("no policy allows it")})
	}
	isolated := string(d) + "-isolated"
	w.tx.Add(&knftables.Map{Name: isolated, Type: "ipv4_addr : verdict"})
	for _, ip := range slices.SortedFunc(maps.Keys(s.Isolated), netip.Addr.Compare) {
		w.tx.Add(&knftables.Element{Map: isolated, Key: []string{ip.String()}, Value: []string{"goto " + s.Isolated[ip]}})
	}
	base := string(d)
	w.tx.Add(&knftables.Chain{
		Name: base, Type: knftables.PtrTo(knftables.FilterType),
		Hook: knftables.PtrTo(knftables.ForwardHook), Priority: &priority,
	})
	for _, rule := range []string{
		"ct direction reply accept",
		"ct state related accept",
		"ip saddr . ip daddr @" + selfSet + " accept",
		d.near() + " vmap @" + isolated,
	} {
		w.tx.Add(&knftables.Rule{Chain: base, Rule: rule})
	}
}

// rule writes one rule of a policy as the sets it needs and the nftables rules that
// accept by them; each of those stands for one protocol.
func (w writer) rule(d Direction, chain, name string, r Rule) {
	peer := ""
	if !r.AnyPeer {
		set := name + "/peers"
		w.tx.Add(&knftables.Set{Name: set, Type: "ipv4_addr", Flags: []knftables.SetFlag{knftables.IntervalFlag}})
		for _, p := range r.Peers {
			w.tx.Add(&knftables.Element{Set: set, Key: []string{p.String()}})
		}
		peer = d.far() + " @" + set + " "
	}
	if r.AnyPort {
		w.tx.Add(&knftables.Rule{Chain: chain, Rule: peer + "accept"})
		return
	}
	for _, protocol := range slices.Sorted(maps.Keys(r.Ports)) {
		w.tx.Add(&knftables.Rule{Chain: chain, Rule: peer + portMatch(protocol, r.Ports[protocol]) + " accept"})
	}
	if len(r.Named) == 0 {
		return
	}
	set := name + "/named"
	w.tx.Add(&knftables.Set{Name: set, Type: "ipv4_addr . inet_proto . inet_service"})
	for _, e := range r.Named {
		w.tx.Add(&knftables.Element{Set: set, Key: []string{e.ip.String(), lower(e.protocol), fmt.Sprint(e.port)}})
	}
	w.tx.Add(&knftables.Rule{Chain: chain, Rule: peer + "ip daddr . meta l4proto . th dport @" + set + " accept"})
}

// portMatch matches packets of the protocol to one of the ports.
func portMatch(protocol corev1.Protocol, ports []portRange) string {
	var list []string
	for _, p := range ports {
		switch {
		case p.lo == 0 && p.hi == math.MaxUint16:
			return "meta l4proto " + lower(protocol)
		case p.lo == p.hi:
			list = append(list, fmt.Sprint(p.lo))
		default:
			list = append(list, fmt.Sprintf("%d-%d", p.lo, p.hi))
		}
	}
	return fmt.Sprintf("%s dport { %s }", lower(protocol), strings.Join(list, ", "))
}

func lower(p corev1.Protocol) string { return strings.ToLower(string(p)) }
