//go:build linux

package netpol

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestScenariosOnRealPackets(t *testing.T) {
	l := newLab(t)
	for name, s := range scenarios {
		t.Run(name, func(t *testing.T) {
			l.enforce(t, s.build(t)...)
			servers := map[flow]bool{}
			for _, f := range append(append([]flow(nil), s.allowed...), s.denied...) {
				server := flow{dst: f.dst, protocol: f.protocol, port: f.port}
				if !servers[server] {
					l.listen(t, f.protocol, f.dst, f.port)
					servers[server] = true
				}
			}
			var wg sync.WaitGroup
			defer wg.Wait()
			for _, f := range s.allowed {
				wg.Go(func() {
					if err := l.passes(f, generous); err != nil {
						t.Errorf("%s is not let through: %v", f, err)
					}
				})
			}
			for _, f := range s.denied {
				wg.Go(func() {
					if err := l.passes(f, patience); !isDropped(err) {
						t.Errorf("%s is not dropped: %v", f, err)
					}
				})
			}
		})
	}
}

func TestNodeReachesItsPods(t *testing.T) {
	l := newLab(t)
	l.enforce(t, policy(t, "deny", `{podSelector: {}, policyTypes: [Ingress, Egress]}`))
	l.listen(t, corev1.ProtocolTCP, a1, 80)
	c, err := l.node.dial("tcp4", "", a1+":80", generous)
	check(t, err)
	defer c.Close()
	if err := echo(c, generous); err != nil {
		t.Errorf("a probe from the node is not answered: %v", err)
	}
}

func TestPoliciesSeePodsBehindServices(t *testing.T) {
	l := newLab(t)
	l.listen(t, corev1.ProtocolTCP, a2, 9090)
	l.enforce(t, policy(t, "web", `
podSelector: {matchLabels: {app: db}}
ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: http}]}]`))
	try := func(from string, timeout time.Duration) error {
		c, err := l.byIP[from].dial("tcp4", from, l.virtual, timeout)
		if err != nil {
			return err
		}
		defer c.Close()
		return echo(c, timeout)
	}
	if err := try(a1, generous); err != nil {
		t.Errorf("a1 is allowed and does not reach the service: %v", err)
	}
	if err := try(b1, patience); !isDropped(err) {
		t.Errorf("b1 is denied and gets: %v", err)
	}
	if err := try(a2, generous); err != nil {
		t.Errorf("a2 does not reach itself through the service: %v", err)
	}
}

func TestChangesReachOpenConnections(t *testing.T) {
	l := newLab(t)
	l.listen(t, corev1.ProtocolTCP, a2, 80)
	l.enforce(t)
	c, err := l.byIP[a1].dial("tcp4", a1, a2+":80", generous)
	check(t, err)
	defer c.Close()
	check(t, echo(c, generous))

	l.enforce(t, policy(t, "deny", `podSelector: {}`))
	if err := echo(c, patience); !isDropped(err) {
		t.Fatalf("a connection that is denied by now gets: %v", err)
	}
	l.enforce(t)
	if err := echo(c, generous); err != nil {
		t.Errorf("a connection that is allowed again gets: %v", err)
	}
}

// A reply must pass although the replying pod may open no connection itself.
func TestRepliesPassIsolatedPods(t *testing.T) {
	l := newLab(t)
	l.listen(t, corev1.ProtocolTCP, a2, 80)
	l.listen(t, corev1.ProtocolUDP, a2, 53)
	l.enforce(t, policy(t, "p", `
podSelector: {matchLabels: {app: db}}
policyTypes: [Ingress, Egress]
ingress: [{}]`))
	for _, f := range []flow{tcp(a1, a2, 80), udp(a1, a2, 53), tcp(b2, a2, 80)} {
		if err := l.passes(f, generous); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// The table must be what the last snapshot asks for and nothing else.
func TestRulesDoNotPileUp(t *testing.T) {
	l := newLab(t)
	list := func() map[string][]string {
		var all map[string][]string
		check(t, l.node.do(func() (err error) {
			all, err = l.nft.ListAll(context.Background())
			return err
		}))
		return all
	}
	l.enforce(t)
	empty := list()
	for i := range 5 {
		l.enforce(t, policy(t, fmt.Sprintf("p%d", i), `{podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: http}]}]}`))
	}
	if full := list(); len(full["chain"]) <= len(empty["chain"]) {
		t.Fatalf("no chains for the policy: %v", full)
	}
	l.enforce(t)
	if after := list(); fmt.Sprint(after) != fmt.Sprint(empty) {
		t.Errorf("got %v, want %v", after, empty)
	}
}
