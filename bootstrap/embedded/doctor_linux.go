package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/embedded/cgroup"
)

// What a lab of three nodes with Istio needs, measured by `make bench`.
const (
	needMemory = 3 << 30 // bytes available
	needDisk   = 4 << 30 // bytes free in the state directory
)

// Doctor implements bootstrap.Provider.
func (p *Provider) Doctor(ctx context.Context) []bootstrap.Finding {
	out := []bootstrap.Finding{p.doctorRoot()}
	out = append(out, doctorNamespaces(), doctorFileSystem("overlay"), doctorCgroups())
	if os.Geteuid() == 0 {
		out = append(out, doctorNftables())
	}
	out = append(out, doctorInotify(), doctorMemory(), p.doctorDisk(), p.doctorPayload(ctx))
	if os.Geteuid() == 0 && !hasCapability(unix.CAP_SYS_RESOURCE) {
		out = append(out, bootstrap.Finding{
			Check: "CAP_SYS_RESOURCE", Severity: bootstrap.Warning,
			Detail: "withheld from this process: pods keep its OOM score instead of their own",
		})
	}
	return out
}

// room fails where a new cluster cannot fit.
func (p *Provider) room() error {
	var errs []error
	for _, f := range []bootstrap.Finding{
		doctorNamespaces(), doctorFileSystem("overlay"), doctorCgroups(), doctorNftables(), doctorInotify(), doctorMemory(), p.doctorDisk(),
	} {
		if f.Severity == bootstrap.Fatal {
			errs = append(errs, fmt.Errorf("%s: %s; %s", f.Check, f.Detail, f.Mend))
		}
	}
	return errors.Join(errs...)
}

func (p *Provider) doctorRoot() bootstrap.Finding {
	f := bootstrap.Finding{Check: "root", Severity: bootstrap.OK, Detail: "running as root"}
	if os.Geteuid() != 0 {
		f.Severity, f.Detail, f.Mend = bootstrap.Fatal, "running as uid "+strconv.Itoa(os.Geteuid()), "run ropes with sudo"
	}
	return f
}

func doctorNamespaces() bootstrap.Finding {
	f := bootstrap.Finding{Check: "namespaces", Severity: bootstrap.OK, Detail: "net, mnt, pid, uts, ipc, cgroup"}
	var missing []string
	for _, ns := range []string{"net", "mnt", "pid", "uts", "ipc", "cgroup"} {
		if _, err := os.Stat(filepath.Join("/proc/self/ns", ns)); err != nil {
			missing = append(missing, ns)
		}
	}
	if len(missing) > 0 {
		f.Severity, f.Detail = bootstrap.Fatal, "the kernel lacks namespaces: "+strings.Join(missing, ", ")
		f.Mend = "use a kernel with CONFIG_NAMESPACES and all of them switched on"
	}
	return f
}

func doctorFileSystem(name string) bootstrap.Finding {
	f := bootstrap.Finding{Check: "file system " + name, Severity: bootstrap.OK, Detail: "known to the kernel"}
	data, err := os.ReadFile("/proc/filesystems")
	if err == nil && strings.Contains(string(data), "\t"+name+"\n") {
		return f
	}
	if _, err := os.Stat("/lib/modules"); err == nil {
		f.Severity, f.Detail = bootstrap.Warning, "not loaded; the kernel loads it at first use if it has it"
		f.Mend = "modprobe " + name
		return f
	}
	f.Severity, f.Detail, f.Mend = bootstrap.Fatal, "unknown to the kernel", "use a kernel with CONFIG_OVERLAY_FS"
	return f
}

func doctorCgroups() bootstrap.Finding {
	f := bootstrap.Finding{Check: "cgroups", Severity: bootstrap.OK}
	hs, err := cgroup.Hierarchies()
	if err != nil {
		f.Severity, f.Detail, f.Mend = bootstrap.Fatal, err.Error(), "mount -t cgroup2 none "+cgroup.Mountpoint
		return f
	}
	f.Detail = "version 1"
	if hs[0].Dir == "" {
		f.Detail = "version 2"
	}
	if err := unix.Access(hs[0].Path(""), unix.W_OK); err != nil && os.Geteuid() == 0 {
		f.Severity, f.Detail, f.Mend = bootstrap.Fatal, cgroup.Mountpoint+" is read-only", "mount -o remount,rw "+cgroup.Mountpoint
		return f
	}
	if hs[0].Dir == "" {
		return f
	}
	have := map[string]bool{}
	for _, h := range hs {
		for o := range strings.SplitSeq(h.Options, ",") {
			have[o] = true
		}
	}
	for _, c := range []string{"cpu", "cpuset", "memory", "pids", "devices", "freezer"} {
		if !have[c] {
			f.Severity, f.Detail = bootstrap.Fatal, "no "+c+" controller is mounted"
			f.Mend = fmt.Sprintf("mkdir -p %[1]s/%[2]s && mount -t cgroup -o %[2]s cgroup %[1]s/%[2]s", cgroup.Mountpoint, c)
		}
	}
	return f
}

func doctorNftables() bootstrap.Finding {
	f := bootstrap.Finding{Check: "nf_tables", Severity: bootstrap.OK, Detail: "the kernel answers"}
	c, err := nftables.New()
	if err == nil {
		_, err = c.ListTables()
	}
	if err != nil {
		f.Severity, f.Detail = bootstrap.Fatal, "the kernel does not answer: "+err.Error()
		f.Mend = "use a kernel with CONFIG_NF_TABLES (modprobe nf_tables)"
	}
	return f
}

func doctorMemory() bootstrap.Finding {
	f := bootstrap.Finding{Check: "memory", Severity: bootstrap.OK}
	have, err := availableMemory()
	if err != nil {
		f.Severity, f.Detail = bootstrap.Warning, err.Error()
		return f
	}
	f.Detail = fmt.Sprintf("%.1f GiB available, %.1f needed", gib(have), gib(needMemory))
	if have < needMemory {
		f.Severity, f.Mend = bootstrap.Fatal, "end other programs, or use a machine with more memory"
	}
	return f
}

func (p *Provider) doctorDisk() bootstrap.Finding {
	f := bootstrap.Finding{Check: "disk", Severity: bootstrap.OK}
	dir := p.opts.StateRoot
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	for errors.Is(err, unix.ENOENT) && dir != "/" {
		dir = filepath.Dir(dir)
		err = unix.Statfs(dir, &st)
	}
	if err != nil {
		f.Severity, f.Detail = bootstrap.Warning, err.Error()
		return f
	}
	free := st.Bavail * uint64(st.Bsize)
	f.Detail = fmt.Sprintf("%.1f GiB free for %s, %.1f needed", gib(free), p.opts.StateRoot, gib(needDisk))
	if free < needDisk {
		f.Severity, f.Mend = bootstrap.Fatal, "free some space, or mount a larger disk on "+p.opts.StateRoot
	}
	return f
}

func (p *Provider) doctorPayload(ctx context.Context) bootstrap.Finding {
	f := bootstrap.Finding{Check: "payload", Severity: bootstrap.OK}
	dir, err := p.opts.Payload(ctx, func(string) {})
	if err != nil {
		f.Severity, f.Detail, f.Mend = bootstrap.Fatal, err.Error(), "make build"
		return f
	}
	f.Detail = "verified in " + dir
	return f
}

func gib(bytes uint64) float64 { return float64(bytes) / (1 << 30) }

// availableMemory is MemAvailable of /proc/meminfo in bytes, or less where a cgroup
// allows less.
func availableMemory() (uint64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, err := strconv.ParseUint(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

func hasCapability(c int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[c/32].Effective&(1<<(c%32)) != 0
}
