package netpol

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// The test cluster. a1, a2 and b1 are on the node that rules are made for, b2 is
// elsewhere. world is no pod.
const (
	a1    = "10.244.1.11" // namespace a, app=web, port http=8080
	a2    = "10.244.1.12" // namespace a, app=db, ports http=9090 and dns=53/UDP
	b1    = "10.244.1.21" // namespace b, app=web
	b2    = "10.244.2.22" // namespace b, app=db, port http=7070
	world = "192.0.2.1"
)

func cluster(policies ...*networkingv1.NetworkPolicy) Snapshot {
	pod := func(ns, name, node, ip, app string, ports ...NamedPort) Pod {
		return Pod{Namespace: ns, Name: name, Node: node, IP: netip.MustParseAddr(ip), Labels: labels.Set{"app": app}, Ports: ports}
	}
	return Snapshot{
		Node: "w1",
		Namespaces: map[string]labels.Set{
			"a": {"team": "a", "kubernetes.io/metadata.name": "a"},
			"b": {"team": "b", "kubernetes.io/metadata.name": "b"},
		},
		Pods: []Pod{
			pod("a", "a1", "w1", a1, "web", NamedPort{"http", corev1.ProtocolTCP, 8080}),
			pod("a", "a2", "w1", a2, "db", NamedPort{"http", corev1.ProtocolTCP, 9090}, NamedPort{"dns", corev1.ProtocolUDP, 53}),
			pod("b", "b1", "w1", b1, "web"),
			pod("b", "b2", "w2", b2, "db", NamedPort{"http", corev1.ProtocolTCP, 7070}),
		},
		Policies: policies,
	}
}

// policy reads the spec of a policy in namespace a, as a learner would write it.
func policy(t *testing.T, name, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatalf("policy %s: %v", name, err)
	}
	return p
}

// allows judges one packet by the ruleset as the nftables rules would.
func (r *Ruleset) allows(src, dst string, protocol corev1.Protocol, port uint16) bool {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	if s == d && slices.Contains(r.Self, s) {
		return true
	}
	to := endpoint{ip: d, protocol: protocol, port: port}
	return r.Egress.allows(s, d, to) && r.Ingress.allows(d, s, to)
}

func (s Side) allows(near, far netip.Addr, to endpoint) bool {
	group, isolated := s.Isolated[near]
	if !isolated {
		return true
	}
	return slices.ContainsFunc(s.Groups[group], func(name string) bool {
		return slices.ContainsFunc(s.Policies[name], func(r Rule) bool {
			inRange := slices.ContainsFunc(r.Ports[to.protocol], func(p portRange) bool { return p.lo <= to.port && to.port <= p.hi })
			return (r.AnyPeer || contains(r.Peers, far)) && (r.AnyPort || inRange || slices.Contains(r.Named, to))
		})
	})
}

// flow is one packet of the matrix, as "src dst proto/port".
type flow struct {
	src, dst string
	protocol corev1.Protocol
	port     uint16
}

func (f flow) String() string {
	return fmt.Sprintf("%s > %s %s/%d", names[f.src], names[f.dst], f.protocol, f.port)
}

var names = map[string]string{a1: "a1", a2: "a2", b1: "b1", b2: "b2", world: "world"}

func tcp(src, dst string, port uint16) flow { return flow{src, dst, corev1.ProtocolTCP, port} }
func udp(src, dst string, port uint16) flow { return flow{src, dst, corev1.ProtocolUDP, port} }

// scenario is a set of policies with what they let through and what not. The table is
// judged twice: on the data here, on real packets in live_test.go.
type scenario struct {
	policies map[string]string // specs of policies in namespace a, by name
	allowed  []flow
	denied   []flow
}

var scenarios = map[string]scenario{
	"no policy": {
		allowed: []flow{tcp(a1, a2, 80), tcp(b2, a1, 80), tcp(world, a1, 80), tcp(a1, world, 80), udp(a1, a2, 53)},
	},
	"deny all ingress": {
		policies: map[string]string{"deny": `podSelector: {}`},
		allowed:  []flow{tcp(a1, b1, 80), tcp(a1, b2, 80), tcp(a1, world, 80), tcp(a1, a1, 80), tcp(b1, b2, 80)},
		denied:   []flow{tcp(a1, a2, 80), tcp(b1, a1, 80), tcp(b2, a2, 80), tcp(world, a1, 80), udp(b1, a2, 53)},
	},
	"deny all egress": {
		policies: map[string]string{"deny": `{podSelector: {}, policyTypes: [Egress]}`},
		allowed:  []flow{tcp(b1, a1, 80), tcp(b2, a1, 80), tcp(world, a1, 80), tcp(a1, a1, 80)},
		denied:   []flow{tcp(a1, a2, 80), tcp(a1, b1, 80), tcp(a1, b2, 80), tcp(a2, world, 80), udp(a1, b1, 53)},
	},
	"egress rules isolate both ways by default": {
		policies: map[string]string{"p": `
podSelector: {matchLabels: {app: web}}
egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]`},
		allowed: []flow{tcp(a1, a2, 80), tcp(a2, b1, 80)},
		denied:  []flow{tcp(a1, b1, 80), tcp(b1, a1, 80), tcp(a2, a1, 80)},
	},
	"pod selector means this namespace": {
		policies: map[string]string{"p": `
podSelector: {matchLabels: {app: db}}
ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]`},
		allowed: []flow{tcp(a1, a2, 80), udp(a1, a2, 53), tcp(b1, a1, 80)},
		denied:  []flow{tcp(b1, a2, 80), tcp(b2, a2, 80), tcp(world, a2, 80)},
	},
	"namespace selector means all its pods": {
		policies: map[string]string{"p": `
podSelector: {}
ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}]}]`},
		allowed: []flow{tcp(b1, a1, 80), tcp(b2, a2, 80)},
		denied:  []flow{tcp(a1, a2, 80), tcp(world, a1, 80)},
	},
	"both selectors in one peer are and": {
		policies: map[string]string{"p": `
podSelector: {}
ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}, podSelector: {matchLabels: {app: db}}}]}]`},
		allowed: []flow{tcp(b2, a1, 80)},
		denied:  []flow{tcp(b1, a1, 80), tcp(a2, a1, 80)},
	},
	"two peers are or": {
		policies: map[string]string{"p": `
podSelector: {}
ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}, {podSelector: {matchLabels: {app: db}}}]}]`},
		allowed: []flow{tcp(b1, a1, 80), tcp(b2, a1, 80), tcp(a2, a1, 80)},
		denied:  []flow{tcp(a1, a2, 80), tcp(world, a1, 80)},
	},
	"policies add up": {
		policies: map[string]string{
			"deny":  `podSelector: {}`,
			"web":   `{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}]}`,
			"web-2": `{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 81}]}]}`,
		},
		allowed: []flow{tcp(world, a1, 80), tcp(b1, a1, 81)},
		denied:  []flow{tcp(world, a1, 82), tcp(world, a2, 80), udp(b1, a1, 80)},
	},
	"empty from and empty rule": {
		policies: map[string]string{"p": `{podSelector: {matchLabels: {app: web}}, ingress: [{from: []}]}`, "q": `{podSelector: {matchLabels: {app: db}}, ingress: []}`},
		allowed:  []flow{tcp(world, a1, 80), udp(b2, a1, 9)},
		denied:   []flow{tcp(a1, a2, 80)},
	},
	"both ends must agree": {
		policies: map[string]string{
			"out": `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}`,
			"in":  `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80}]}]}`,
		},
		allowed: []flow{tcp(a1, a2, 80), tcp(b1, a2, 80)},
		denied:  []flow{tcp(a1, a2, 81), tcp(a1, b1, 80)},
	},
	"ip block with exceptions": {
		policies: map[string]string{"p": `
podSelector: {}
ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/16, except: [10.244.1.0/28, 10.244.2.22/32]}}]}]`},
		allowed: []flow{tcp(b1, a1, 80)},
		denied:  []flow{tcp(a1, a2, 80), tcp(a2, a1, 80), tcp(b2, a1, 80), tcp(world, a1, 80)},
	},
	"ip block out to the world": {
		policies: map[string]string{"p": `
podSelector: {}
policyTypes: [Egress]
egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]}]`},
		allowed: []flow{tcp(a1, world, 80), tcp(a1, a1, 80)},
		denied:  []flow{tcp(a1, a2, 80), tcp(a1, b2, 80)},
	},
	"overlapping peers": {
		policies: map[string]string{"p": `
podSelector: {}
ingress: [{from: [{ipBlock: {cidr: 10.244.1.0/24}}, {ipBlock: {cidr: 10.244.1.16/28}}, {namespaceSelector: {}}]}]`},
		allowed: []flow{tcp(a1, a2, 80), tcp(b1, a1, 80), tcp(b2, a1, 80)},
		denied:  []flow{tcp(world, a1, 80)},
	},
	"ports, ranges and protocols": {
		policies: map[string]string{"p": `
podSelector: {}
ingress: [{ports: [{port: 80}, {port: 90, endPort: 95}, {port: 93, endPort: 99}, {protocol: UDP, port: 53}]}]`},
		allowed: []flow{tcp(b1, a1, 80), tcp(b1, a1, 90), tcp(b1, a1, 99), udp(b1, a1, 53)},
		denied:  []flow{tcp(b1, a1, 79), tcp(b1, a1, 89), tcp(b1, a1, 100), tcp(b1, a1, 53), udp(b1, a1, 80)},
	},
	"a whole protocol": {
		policies: map[string]string{"p": `{podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}`},
		allowed:  []flow{udp(b1, a1, 1), udp(b1, a1, 65535)},
		denied:   []flow{tcp(b1, a1, 1)},
	},
	"named port of the selected pods": {
		policies: map[string]string{"p": `
podSelector: {}
ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}], ports: [{port: http}, {protocol: UDP, port: dns}]}]`},
		allowed: []flow{tcp(b1, a1, 8080), tcp(b2, a2, 9090), udp(b1, a2, 53)},
		denied:  []flow{tcp(b1, a1, 9090), tcp(b1, a2, 8080), udp(b1, a1, 53), tcp(b1, a2, 53), tcp(a1, a2, 9090)},
	},
	"named port of the peers": {
		policies: map[string]string{"p": `
podSelector: {matchLabels: {app: web}}
policyTypes: [Egress]
egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}], ports: [{port: http}]}]`},
		allowed: []flow{tcp(a1, a2, 9090), tcp(a1, b2, 7070)},
		denied:  []flow{tcp(a1, a2, 7070), tcp(a1, b2, 9090), tcp(a1, b1, 9090), tcp(a1, world, 9090)},
	},
	"named port that nobody has": {
		policies: map[string]string{"p": `{podSelector: {}, ingress: [{ports: [{port: nope}]}]}`},
		denied:   []flow{tcp(b1, a1, 80), tcp(b1, a1, 8080)},
	},
	"selector that matches nobody": {
		policies: map[string]string{"p": `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: nope}}}]}]}`},
		denied:   []flow{tcp(b1, a1, 80), tcp(a2, a1, 80)},
	},
	"match expressions": {
		policies: map[string]string{"p": `
podSelector: {matchExpressions: [{key: app, operator: In, values: [web, cache]}]}
ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}}]}]`},
		allowed: []flow{tcp(b1, a1, 80), tcp(a1, a2, 80)},
		denied:  []flow{tcp(a2, a1, 80)},
	},
	"allow all beats deny all": {
		policies: map[string]string{"deny": `{podSelector: {}, policyTypes: [Ingress, Egress]}`, "allow": `{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}`},
		allowed:  []flow{tcp(a1, a2, 80), tcp(a1, world, 80), tcp(world, a1, 80), udp(b2, a1, 5)},
	},
}

func (s scenario) build(t *testing.T) []*networkingv1.NetworkPolicy {
	var all []*networkingv1.NetworkPolicy
	for _, name := range slices.Sorted(maps.Keys(s.policies)) {
		all = append(all, policy(t, name, s.policies[name]))
	}
	return all
}

func TestScenarios(t *testing.T) {
	for name, s := range scenarios {
		t.Run(name, func(t *testing.T) {
			r, err := Compile(cluster(s.build(t)...))
			if err != nil {
				t.Fatal(err)
			}
			for want, flows := range map[bool][]flow{true: s.allowed, false: s.denied} {
				for _, f := range flows {
					if got := r.allows(f.src, f.dst, f.protocol, f.port); got != want {
						t.Errorf("%s: allowed is %t, want %t", f, got, want)
					}
				}
			}
		})
	}
}

func TestOnlyPodsOfThisNodeAreIsolated(t *testing.T) {
	s := cluster(policy(t, "deny", `podSelector: {}`))
	s.Node = "w2"
	r, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Ingress.Isolated)+len(r.Egress.Isolated)+len(r.Ingress.Policies) != 0 {
		t.Errorf("rules on a node that runs none of the selected pods: %+v", r)
	}
}

func TestCompileDoesNotDependOnOrder(t *testing.T) {
	policies := []*networkingv1.NetworkPolicy{
		policy(t, "one", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}], ports: [{port: http}, {port: 80}]}]}`),
		policy(t, "two", `{podSelector: {}, policyTypes: [Ingress, Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}`),
	}
	s := cluster(policies...)
	first, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(s.Pods)
	slices.Reverse(s.Policies)
	second, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	opts := cmp.Options{cmp.AllowUnexported(addrRange{}, portRange{}, endpoint{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })}
	if diff := cmp.Diff(first, second, opts); diff != "" {
		t.Errorf("(-first +second):\n%s", diff)
	}
}

func TestIPv6IsReportedByName(t *testing.T) {
	r, err := Compile(cluster(policy(t, "six", `
podSelector: {}
ingress: [{from: [{ipBlock: {cidr: "2001:db8::/32"}}]}]`)))
	if err != nil {
		t.Fatal(err)
	}
	want := []Warning{{Namespace: "a", Policy: "six", Message: "ipBlock 2001:db8::/32 matches nothing: this cluster has IPv4 addresses only"}}
	if diff := cmp.Diff(want, r.Warnings); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r.allows(b1, a1, corev1.ProtocolTCP, 80) {
		t.Error("the pod is not isolated")
	}
}

func TestUnreadablePolicyIsNamed(t *testing.T) {
	for name, spec := range map[string]string{
		"selector":   `podSelector: {matchExpressions: [{key: app, operator: Nonsense}]}`,
		"ip block":   `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: nonsense}}]}]}`,
		"exception":  `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [nonsense]}}]}]}`,
		"peer":       `{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: Nonsense}]}}]}]}`,
		"namespaces": `{podSelector: {}, egress: [{to: [{namespaceSelector: {matchExpressions: [{key: app, operator: Nonsense}]}}]}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(cluster(policy(t, "bad", spec)))
			if err == nil || !strings.Contains(err.Error(), "network policy a/bad") {
				t.Errorf("error %v, want one that names a/bad", err)
			}
		})
	}
}

func TestLongNamesStayApart(t *testing.T) {
	long := strings.Repeat("x", 253)
	one := policyName(Ingress, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: long[1:] + "1"}})
	two := policyName(Ingress, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: long[1:] + "2"}})
	if one == two || len(one) > maxName || len(two) > maxName {
		t.Errorf("%s (%d)\n%s (%d)", one, len(one), two, len(two))
	}
}
