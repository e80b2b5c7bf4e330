package node

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/ropes-dev/ropes/bootstrap/embedded/cgroup"
)

// goAheadFD is the pipe on which the supervisor says that cgroups are in place.
const goAheadFD = 3

// Enter turns the calling process, which is PID 1 of fresh PID, mount, network, UTS
// and IPC namespaces, into the node that the JSON-encoded Paths in arg describe.
// It does not return on success.
func Enter(arg string) error {
	var p Paths
	if err := json.Unmarshal([]byte(arg), &p); err != nil {
		return fmt.Errorf("read node paths: %w", err)
	}
	// The cgroup namespace belongs to a thread: stay on this one until exec.
	runtime.LockOSThread()
	if err := awaitGoAhead(); err != nil {
		return err
	}
	cfg, err := LoadConfig(p.Etc + "/ropes/node.json")
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare cgroup namespace: %w", err)
	}
	if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		return err
	}
	if err := buildRoot(p, hierarchies); err != nil {
		return err
	}
	env := []string{
		"PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		"HOSTNAME=" + cfg.Hostname,
	}
	return unix.Exec("/usr/local/bin/ropes-node", []string{"ropes-node", "node-init"}, env)
}

// awaitGoAhead blocks until the supervisor has put this process into its cgroups.
func awaitGoAhead() error {
	f := os.NewFile(goAheadFD, "go-ahead")
	defer f.Close()
	var b [1]byte
	if n, err := f.Read(b[:]); n != 1 {
		return fmt.Errorf("the supervisor went away before the node could start: %w", err)
	}
	return nil
}
