package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ropes-dev/ropes/bootstrap/embedded/cgroup"
)

// mount is one entry of the node's file system.
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
	optional               bool // the host may not have the source
}

// links are the names under which the payload's programs and the borrowed Debian
// tools stand in the node's root.
var links = [][2]string{
	{"/opt/ropes/bin", "/usr/local/bin"},
	{"/opt/ropes/cni", "/opt/cni/bin"},
	{"/opt/ropes/host/lib", "/lib"},
	{"/opt/ropes/host/lib", "/usr/lib"},
	{"/opt/ropes/host/lib64", "/lib64"},
	{"/opt/ropes/host/sbin", "/usr/sbin"},
	{"/opt/ropes/host/bin", "/usr/bin"},
	{"/usr/sbin", "/sbin"},
	{"/usr/bin", "/bin"},
	{"/run", "/var/run"},
}

// buildRoot mounts the node's root file system and makes it the root of this process.
func buildRoot(p Paths, hierarchies []cgroup.Hierarchy) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	root := p.Root
	if err := unix.Mount("ropes-root", root, "tmpfs", 0, "mode=755,size=64m"); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	for _, m := range rootMounts(p) {
		if err := m.do(root); err != nil {
			return err
		}
	}
	if err := mountCgroups(root, hierarchies); err != nil {
		return err
	}
	for _, l := range links {
		if err := link(root, l[0], l[1]); err != nil {
			return err
		}
	}
	return pivot(root)
}

func rootMounts(p Paths) []mount {
	bind := uintptr(unix.MS_BIND | unix.MS_REC)
	return []mount{
		{source: "proc", target: "/proc", fstype: "proc", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{source: "sysfs", target: "/sys", fstype: "sysfs", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{source: "/dev", target: "/dev", flags: bind},
		{source: p.Payload, target: "/opt/ropes", flags: bind},
		{source: p.Etc, target: "/etc", flags: bind},
		{source: p.Var, target: "/var", flags: bind},
		{source: "tmpfs", target: "/run", fstype: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=755"},
		{source: "tmpfs", target: "/tmp", fstype: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=1777"},
		{source: "/lib/modules", target: "/opt/ropes/host/lib/modules", flags: bind, optional: true},
		{target: "/opt/ropes", flags: unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY},
	}
}

func (m mount) do(root string) error {
	if m.optional {
		if _, err := os.Stat(m.source); err != nil {
			return nil
		}
	}
	target := filepath.Join(root, m.target)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
	}
	return nil
}

// mountCgroups mounts each hierarchy anew: inside the cgroup namespace its root is
// the node's own cgroup.
func mountCgroups(root string, hierarchies []cgroup.Hierarchy) error {
	base := filepath.Join(root, "/sys/fs/cgroup")
	if len(hierarchies) > 0 && hierarchies[0].Dir == "" {
		if err := unix.Mount("cgroup2", base, "cgroup2", 0, ""); err != nil {
			return fmt.Errorf("mount cgroup2: %w", err)
		}
		return nil
	}
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount cgroup root: %w", err)
	}
	for _, h := range hierarchies {
		dir := filepath.Join(base, h.Dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("cgroup", dir, h.FSType, 0, h.Options); err != nil {
			return fmt.Errorf("mount cgroup %s (%s): %w", h.Dir, h.Options, err)
		}
	}
	return nil
}

// link makes name in root a symbolic link to target, which is resolved in the node.
func link(root, target, name string) error {
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	err := os.Symlink(target, path)
	if errors.Is(err, os.ErrExist) {
		if got, rerr := os.Readlink(path); rerr == nil && got == target {
			return nil
		}
		if rerr := os.RemoveAll(path); rerr != nil {
			return rerr
		}
		return os.Symlink(target, path)
	}
	return err
}

// pivot makes root the root of the mount namespace, drops the host's tree, and shares
// mounts downwards so that volumes with mount propagation work.
func pivot(root string) error {
	old := filepath.Join(root, "run/old-root")
	if err := os.MkdirAll(old, 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/run/old-root", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's root: %w", err)
	}
	if err := os.Remove("/run/old-root"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	return nil
}
