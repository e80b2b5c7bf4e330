package podnetwork

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(name, pods, ip string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: pods}}
	if ip != "" {
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: ip}}
	}
	return n
}

func TestPlan(t *testing.T) {
	nodes := []*corev1.Node{
		node("w2", "10.244.2.0/24", "172.18.0.4"), node("w1", "10.244.1.0/24", "172.18.0.3"), node("cp", "10.244.0.0/24", "172.18.0.2"),
		node("new", "", ""), node("unheard-of", "10.244.9.0/24", ""),
	}
	got, err := plan("w1", nodes)
	if err != nil {
		t.Fatal(err)
	}
	want := Plan{
		Pods: netip.MustParsePrefix("10.244.1.0/24"),
		Routes: []Route{
			{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParseAddr("172.18.0.2")},
			{netip.MustParsePrefix("10.244.2.0/24"), netip.MustParseAddr("172.18.0.4")},
		},
		Inside: []netip.Prefix{
			netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("10.244.2.0/24"),
			netip.MustParsePrefix("172.18.0.2/32"), netip.MustParsePrefix("172.18.0.3/32"), netip.MustParsePrefix("172.18.0.4/32"),
		},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(string(got.cni()), `"subnet": "10.244.1.0/24"`) {
		t.Errorf("CNI configuration without the node's addresses:\n%s", got.cni())
	}
	for _, self := range []string{"new", "nobody", "unheard-of"} {
		if _, err := plan(self, nodes); err == nil {
			t.Errorf("a plan for %s, which has no addresses yet", self)
		}
	}
}
