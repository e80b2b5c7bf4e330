package embedded

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
)

func TestLayOutNamesNodesAsKindDoesAndKeepsAddressesApart(t *testing.T) {
	c := layOut(bootstrap.Spec{Name: "demo", Workers: 3}, 7)
	var names []string
	seen := map[string]bool{}
	bridge := netip.MustParsePrefix(c.BridgeCIDR).Masked()
	for _, n := range c.Nodes {
		names = append(names, n.Name)
		if seen[n.IP] || seen[n.PodCIDR] {
			t.Errorf("%s shares an address with another node: %+v", n.Name, n)
		}
		seen[n.IP], seen[n.PodCIDR] = true, true
		if !bridge.Contains(netip.MustParseAddr(n.IP)) || n.IP == c.BridgeIP {
			t.Errorf("%s has %s, which is no node's address on %s", n.Name, n.IP, bridge)
		}
		if !netip.MustParsePrefix(c.PodSubnet).Overlaps(netip.MustParsePrefix(n.PodCIDR)) {
			t.Errorf("%s has pods outside of %s", n.Name, c.PodSubnet)
		}
	}
	want := []string{"demo-control-plane", "demo-worker", "demo-worker2", "demo-worker3"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	if c.ControlPlane().Name != "demo-control-plane" {
		t.Errorf("control plane is %s", c.ControlPlane().Name)
	}
	if len(c.Uplink.HostLink) > 15 {
		t.Errorf("link name %q is longer than the kernel takes", c.Uplink.HostLink)
	}
}

func TestPlanStepsAroundOtherClusters(t *testing.T) {
	p := New(Options{StateRoot: t.TempDir()})
	first, err := p.plan(bootstrap.Spec{Name: "one", Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := state.ClusterDir(p.opts.StateRoot, "one").Save(first); err != nil {
		t.Fatal(err)
	}
	second, err := p.plan(bootstrap.Spec{Name: "two", Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	if first.BridgeCIDR == second.BridgeCIDR || first.Uplink == second.Uplink {
		t.Errorf("two clusters share addresses or names: %+v, %+v", first, second)
	}
}

func TestListenTakesTheNextFreePortAndSaysSo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	want := taken.Addr().(*net.TCPAddr).Port
	f, port, note, err := listen(want, "ingress HTTP")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if port <= want || !strings.Contains(note, "ingress HTTP") {
		t.Errorf("got port %d and note %q for taken port %d", port, note, want)
	}
	if _, err := net.Listen("tcp", taken.Addr().String()); err == nil {
		t.Error("the taken port was taken over")
	}
}

func TestValidate(t *testing.T) {
	for name, tt := range map[string]struct {
		spec bootstrap.Spec
		ok   bool
	}{
		"plain":            {bootstrap.Spec{Name: "ropes", Workers: 2}, true},
		"no workers":       {bootstrap.Spec{Name: "r", Workers: 0}, true},
		"too many workers": {bootstrap.Spec{Name: "r", Workers: 21}, false},
		"negative":         {bootstrap.Spec{Name: "r", Workers: -1}, false},
		"empty name":       {bootstrap.Spec{}, false},
		"path as name":     {bootstrap.Spec{Name: "../x"}, false},
		"upper case":       {bootstrap.Spec{Name: "Ropes"}, false},
		"trailing dash":    {bootstrap.Spec{Name: "a-"}, false},
	} {
		if err := validate(tt.spec); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLockIsRefusedToTheSecondAndLeavesNothing(t *testing.T) {
	root := t.TempDir() + "/ropes"
	p := New(Options{StateRoot: root})
	unlock, err := p.lock("one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.lock("one"); err == nil || !strings.Contains(err.Error(), `"one"`) {
		t.Errorf("second lock: %v, want a refusal that names the cluster", err)
	}
	unlock()
	if _, err := os.Stat(root); !os.IsNotExist(err) {
		t.Errorf("%s is left over: %v", root, err)
	}
}

func TestStartTimeIsThatOfTheProcess(t *testing.T) {
	a, err := startTime(os.Getpid())
	if err != nil || a == "" {
		t.Fatalf("%q, %v", a, err)
	}
	if b, err := startTime(1); err != nil || a == b {
		t.Errorf("PID 1 started at %q, %v; this process at %q", b, err, a)
	}
}
