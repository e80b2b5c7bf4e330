//go:build live

package live

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// settings are what a running lab changes in the kernel outside of any namespace.
var settings = []string{
	"net/ipv4/ip_forward", "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// vacant removes what a run of the suite that was killed has left of clusters of these names, and removes them again
// when the test ends. It returns the inventory of the host without them.
func vacant(t *testing.T, r *rig, names ...string) map[string][]string {
	t.Helper()
	down := func() {
		for _, name := range names {
			if res := r.run(t, "down", "--name", name); res.code != 0 {
				t.Errorf("down of %s: status %d\n%s", name, res.code, res.stderr)
			}
		}
	}
	down()
	t.Cleanup(down)
	return inventory(t, r)
}

// inventory lists everything on the host that a cluster may leave behind, by kind.
func inventory(t *testing.T, r *rig) map[string][]string {
	t.Helper()
	out := map[string][]string{
		"processes": processes(t, r.cache), "namespaces": namespaces(t, r.cache), "mounts": lines(t, "/proc/self/mountinfo"),
		"cgroups": ours(below(t, "/sys/fs/cgroup", 3)), "files": below(t, "/var/lib/ropes", 9), "kubeconfig": below(t, r.home+"/.kube", 2),
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		out["links"] = append(out["links"], l.Attrs().Name)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range routes {
		out["routes"] = append(out["routes"], fmt.Sprintf("%v by %v", route.Dst, route.Gw))
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		out["nft tables"] = append(out["nft tables"], table.Name)
	}
	for _, s := range settings {
		out["settings"] = append(out["settings"], s+" = "+strings.TrimSpace(strings.Join(lines(t, "/proc/sys/"+s), " ")))
	}
	for _, v := range out {
		slices.Sort(v)
	}
	return out
}

// sameAs fails the test where something has come or gone since before.
func sameAs(t *testing.T, r *rig, before map[string][]string) {
	t.Helper()
	if diff := cmp.Diff(before, inventory(t, r)); diff != "" {
		t.Errorf("the host is not what it was (-before +after):\n%s", diff)
	}
}

// ours keeps the control groups that bear our name: others come and go with what else
// the host runs.
func ours(paths []string) []string {
	return slices.DeleteFunc(paths, func(p string) bool { return !strings.Contains(p, "ropes") })
}

// programOfOurs tells whether a process runs a program out of the payload.
func programOfOurs(pid, cache string) bool {
	exe, err := os.Readlink(filepath.Join("/proc", pid, "exe"))
	return err == nil && (strings.HasPrefix(exe, cache) || strings.Contains(exe, "/ropes-node") || strings.Contains(exe, "/opt/ropes/"))
}

// processes are the command lines of programs out of the payload, wherever they run.
func processes(t *testing.T, cache string) []string {
	t.Helper()
	var out []string
	eachProcess(t, func(pid string) {
		if !programOfOurs(pid, cache) {
			return
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
		out = append(out, strings.ReplaceAll(string(cmdline), "\x00", " "))
	})
	return out
}

// namespaces are those of all kinds that a program of ours is in. One that no process is
// in lives on by a mount only, which the mounts show.
func namespaces(t *testing.T, cache string) []string {
	t.Helper()
	seen := map[string]bool{}
	eachProcess(t, func(pid string) {
		if !programOfOurs(pid, cache) {
			return
		}
		for _, kind := range []string{"net", "mnt", "pid", "uts", "ipc", "cgroup"} {
			if ns, err := os.Readlink(filepath.Join("/proc", pid, "ns", kind)); err == nil {
				seen[ns] = true
			}
		}
	})
	var out []string
	for ns := range seen {
		out = append(out, ns)
	}
	return out
}

func eachProcess(t *testing.T, do func(pid string)) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			do(e.Name())
		}
	}
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// below lists directories and files under root down to depth; nothing where root is not.
func below(t *testing.T, root string, depth int) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil
			}
			return err
		}
		if strings.HasPrefix(root, "/sys") && !d.IsDir() {
			return nil
		}
		if strings.Count(strings.TrimPrefix(path, root), "/") > depth {
			return fs.SkipDir
		}
		out = append(out, path)
		return nil
	})
	if err != nil {
		t.Fatal(fmt.Errorf("list %s: %w", root, err))
	}
	return out
}
