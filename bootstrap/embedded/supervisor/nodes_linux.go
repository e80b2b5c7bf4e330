package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ropes-dev/ropes/bootstrap/embedded/cgroup"
	"github.com/ropes-dev/ropes/bootstrap/embedded/kubeadm"
	"github.com/ropes-dev/ropes/bootstrap/embedded/node"
	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
)

const (
	nodeRestartDelay = time.Second
	nodeStopTimeout  = 5 * time.Second
)

// startNodes starts every node once and leaves each to a goroutine that starts it
// again when it ends, until ctx does.
func (s *supervisor) startNodes(ctx context.Context, wg *sync.WaitGroup) error {
	hs, err := cgroup.Hierarchies()
	if err != nil {
		return err
	}
	for i, n := range s.cfg.Nodes {
		if err := s.writeNodeFiles(n); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		cmd, err := s.startNode(i, n, hs)
		if err != nil {
			return fmt.Errorf("start node %s: %w", n.Name, err)
		}
		wg.Go(func() { s.keepNode(ctx, cmd, i, n, hs) })
	}
	return nil
}

func (s *supervisor) keepNode(ctx context.Context, cmd *exec.Cmd, i int, n state.Node, hs []cgroup.Hierarchy) {
	for {
		if cmd != nil {
			stopped := context.AfterFunc(ctx, func() { endNode(cmd.Process) })
			err := cmd.Wait()
			stopped()
			s.log.Warn("node ended", "node", n.Name, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(nodeRestartDelay):
		}
		var err error
		if cmd, err = s.startNode(i, n, hs); err != nil {
			s.log.Error("restart node", "node", n.Name, "err", err)
			cmd = nil
		}
	}
}

// endNode asks a node to stop and, after a while, makes it.
func endNode(p *os.Process) {
	if p.Signal(unix.SIGTERM) != nil {
		return
	}
	time.AfterFunc(nodeStopTimeout, func() { _ = p.Kill() })
}

// startNode starts a node's first process in namespaces of its own, puts it into its
// cgroup, plugs it into the bridge and lets it go.
func (s *supervisor) startNode(i int, n state.Node, hs []cgroup.Hierarchy) (_ *exec.Cmd, err error) {
	group := path.Join(state.CgroupOf(s.cfg.Name), n.Name)
	// What a killed node leaves there, kubelet would take for running containers.
	if err := cgroup.Remove(hs, group); err != nil {
		return nil, err
	}
	if err := cgroup.Create(hs, group); err != nil {
		return nil, err
	}
	paths, err := json.Marshal(node.Paths{
		Payload: s.cfg.PayloadDir, Etc: s.dir.NodeEtc(n.Name), Var: s.dir.NodeVar(n.Name),
		Root: filepath.Join(s.dir.Node(n.Name), "root"),
	})
	if err != nil {
		return nil, err
	}
	wait, goAhead, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer wait.Close()
	defer goAhead.Close()
	log, err := os.OpenFile(filepath.Join(s.dir.NodeVar(n.Name), "log/node.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.cfg.PayloadDir, "bin/ropes-node"), "node", string(paths))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{wait}
	cmd.SysProcAttr = &unix.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, cmd.Process.Kill())
			cmd.Wait() //nolint:errcheck // killed a line above
		}
	}()
	if err := cgroup.Add(hs, group, cmd.Process.Pid); err != nil {
		return nil, err
	}
	if err := plug(i, cmd.Process.Pid); err != nil {
		return nil, err
	}
	if _, err := goAhead.Write([]byte{1}); err != nil {
		return nil, err
	}
	return cmd, nil
}

// plug connects the network namespace of pid with the bridge.
func plug(i, pid int) error {
	name := fmt.Sprintf("node%d", i)
	if old, err := netlink.LinkByName(name); err == nil {
		if err := netlink.LinkDel(old); err != nil {
			return err
		}
	}
	br, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: br.Attrs().Index},
		PeerName:  "eth0", PeerNamespace: netlink.NsPid(pid),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("plug %s in: %w", name, err)
	}
	return netlink.LinkSetUp(veth)
}

// writeNodeFiles lays down what the node reads at its start.
func (s *supervisor) writeNodeFiles(n state.Node) error {
	for _, dir := range []string{
		filepath.Join(s.dir.Node(n.Name), "root"),
		filepath.Join(s.dir.NodeEtc(n.Name), "ropes"),
		filepath.Join(s.dir.NodeVar(n.Name), "log"),
		filepath.Join(s.dir.NodeVar(n.Name), "lib"),
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	cfg, err := s.nodeConfig(n)
	if err != nil {
		return err
	}
	etc := s.dir.NodeEtc(n.Name)
	if err := state.WriteJSON(filepath.Join(etc, "ropes/node.json"), cfg); err != nil {
		return err
	}
	for name, content := range s.etcFiles(n) {
		if err := state.WriteFile(filepath.Join(etc, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (s *supervisor) nodeConfig(n state.Node) (*node.Config, error) {
	_, bridge, err := net.ParseCIDR(s.cfg.BridgeCIDR)
	if err != nil {
		return nil, err
	}
	prefix, _ := bridge.Mask.Size()
	cfg := &node.Config{
		Hostname: n.Name, IP: n.IP, Prefix: prefix, Gateway: s.cfg.BridgeIP, PodCIDR: n.PodCIDR,
		Services:         s.cfg.ServiceSubnet,
		Mirror:           fmt.Sprintf("http://%s:%d", s.cfg.BridgeIP, RegistryPort),
		PauseImage:       kubeadm.PauseImage,
		Snapshotter:      snapshotter(string(s.dir)),
		RestrictOOMScore: !hasSysResource(),
	}
	for _, other := range s.cfg.Nodes {
		if other.Name != n.Name {
			cfg.Routes = append(cfg.Routes, node.Route{CIDR: other.PodCIDR, Via: other.IP})
		}
	}
	if n.Role == state.ControlPlane {
		cfg.KubeletExtraFlags = []string{"--register-with-taints=node-role.kubernetes.io/control-plane:NoSchedule"}
	}
	return cfg, nil
}

func (s *supervisor) etcFiles(n state.Node) map[string]string {
	servers := s.cfg.Nameservers
	if len(servers) == 0 {
		servers = []string{s.cfg.BridgeIP} // nothing answers there, and at once
	}
	hosts := "127.0.0.1 localhost\n"
	for _, other := range s.cfg.Nodes {
		hosts += other.IP + " " + other.Name + "\n"
	}
	return map[string]string{
		"hostname":      n.Name + "\n",
		"hosts":         hosts,
		"resolv.conf":   "nameserver " + strings.Join(servers, "\nnameserver ") + "\n",
		"passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"group":         "root:x:0:\nnogroup:x:65534:\n",
		"nsswitch.conf": "hosts: files dns\n",
		"os-release":    "NAME=\"ropes node\"\nID=ropes\nPRETTY_NAME=\"ropes embedded node\"\n",
	}
}

// snapshotter picks overlayfs except where dir lies on an overlay itself.
func snapshotter(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native"
	}
	return "overlayfs"
}

// hasSysResource tells whether this process may lower an OOM score.
func hasSysResource() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[unix.CAP_SYS_RESOURCE/32].Effective&(1<<(unix.CAP_SYS_RESOURCE%32)) != 0
}
