// Package netpol enforces networking.k8s.io/v1 NetworkPolicy on the pods of one node
// with nftables rules in that node's network namespace.
//
// The way from objects to rules has three stages, the first two of them pure:
//
//	Snapshot (pods, namespaces, policies)  -- Compile -->  Ruleset  -- transaction -->  nft
//
// Where packets pass. Each pod is joined to its node by a routed veth pair, so that
// all traffic between a pod and any other pod, here or elsewhere, and between a pod
// and the world passes the node's forward hook. Service addresses are translated
// before that hook and masquerading happens after it: the rules see the addresses
// of pods. Traffic between a node and its own pods, such as the kubelet's probes,
// passes the hooks input and output, where there are no rules: as the API asks, it
// is always allowed.
//
// What a change does to connections that are open. Packets in a connection's
// original direction are judged one by one, against the rules of the moment; only
// replies are let through because they are replies. A policy that comes to deny a
// pair of pods therefore cuts the connections they have, without touching the
// connection tracking table, and a policy that allows them again revives those that
// have not timed out.
//
// What it does not do. Denied packets are dropped without an answer. It knows IPv4
// only; an IPv6 ipBlock is reported by an event on the policy and matches nothing.
// Pods on the host network are the node as far as the API is concerned: no policy
// selects them, and as peers only an ipBlock matches them. Protocols other than TCP,
// UDP and SCTP pass where a rule names no port, and are dropped otherwise. A pod's
// first packets may pass before its address is known here, as the API allows.
package netpol
