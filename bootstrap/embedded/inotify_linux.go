package embedded

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/ropes-dev/ropes/bootstrap"
)

const (
	inotifyLimit = "/proc/sys/fs/inotify/max_user_instances"
	// needInotify is how many inotify instances root's programs of a lab take: kubelets,
	// containerds, API server and controllers, 43 on three nodes. Without them the kubelet
	// ends as soon as it starts.
	needInotify = 48
)

// doctorInotify counts the inotify instances that root has left. Other clusters on this host, of
// whatever kind, take theirs from the same number.
func doctorInotify() bootstrap.Finding {
	f := bootstrap.Finding{Check: "inotify", Severity: bootstrap.OK}
	data, err := os.ReadFile(inotifyLimit)
	if err != nil {
		f.Severity, f.Detail = bootstrap.Warning, err.Error()
		return f
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		f.Severity, f.Detail = bootstrap.Warning, err.Error()
		return f
	}
	used := inotifyInstances("/proc", 0)
	f.Detail = fmt.Sprintf("%d of %d instances in use", used, limit)
	if limit-used < needInotify {
		f.Severity = bootstrap.Fatal
		f.Detail += fmt.Sprintf(", and a lab needs %d", needInotify)
		f.Mend = "sysctl -w fs.inotify.max_user_instances=512"
	}
	return f
}

// inotifyInstances counts those of a user's processes, as far as they can be looked into.
func inotifyInstances(proc string, uid uint32) int {
	n := 0
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd"))
	for _, dir := range dirs {
		info, err := os.Stat(filepath.Dir(dir))
		if err != nil {
			continue // ended
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != uid {
			continue
		}
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && to == "anon_inode:inotify" {
				n++
			}
		}
	}
	return n
}
