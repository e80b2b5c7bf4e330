package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Times that the node allows its parts.
const (
	linkTimeout   = 10 * time.Second // for the supervisor to plug in eth0
	socketTimeout = 60 * time.Second // for containerd to answer
	stopTimeout   = 3 * time.Second  // for kubelet and containerd to end by themselves
)

// Init runs the node until it is told to stop. The calling process is PID 1 and its
// root is the node's.
func Init(ctx context.Context, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	cfg, err := LoadConfig(ConfigPath)
	if err != nil {
		return err
	}
	if err := delegateCgroups(); err != nil {
		return err
	}
	if err := setUpNetwork(ctx, cfg); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if err := guardServices(cfg.Services); err != nil {
		return err
	}
	if err := writeFiles(cfg); err != nil {
		return err
	}
	procs := newProcesses(log)
	go procs.reap()

	err = procs.keep(ctx, "containerd", []string{"containerd", "--config", "/etc/containerd/config.toml"})
	if err != nil {
		return err
	}
	if err := awaitSocket(ctx, containerdSocket); err != nil {
		return err
	}
	kubelet := append([]string{
		"kubelet",
		"--config=/var/lib/kubelet/config.yaml",
		"--kubeconfig=/etc/kubernetes/kubelet.conf",
		"--node-ip=" + cfg.IP,
		"--hostname-override=" + cfg.Hostname,
	}, cfg.KubeletExtraFlags...)
	if err := procs.keep(ctx, "kubelet", kubelet); err != nil {
		return err
	}
	log.Info("node is up")
	<-ctx.Done()
	procs.stop(stopTimeout)
	return nil
}

// delegateCgroups makes room on a unified hierarchy, where a cgroup may have either
// processes or children with controllers: this process steps down into a leaf. On
// version 1 there is nothing to do.
func delegateCgroups() error {
	const root = "/sys/fs/cgroup"
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	leaf := filepath.Join(root, "init")
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return fmt.Errorf("step into the leaf cgroup: %w", err)
	}
	for c := range strings.FieldsSeq(string(controllers)) {
		err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+c), 0o644)
		if err != nil {
			return fmt.Errorf("hand cgroup controller %s to the pods: %w", c, err)
		}
	}
	return nil
}

// writeFiles puts containerd's and the CNI's configuration in place.
func writeFiles(cfg *Config) error {
	for path, content := range nodeFiles(cfg) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// awaitSocket waits until something listens at path.
func awaitSocket(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, socketTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := dialUnix(ctx, path)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("containerd does not answer on %s: %w; its log is /var/log/containerd.log", path, err)
		case <-tick.C:
		}
	}
}
