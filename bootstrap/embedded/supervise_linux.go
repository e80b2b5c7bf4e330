package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
)

// process names a process so that its number, reused, is not taken for it.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // field 22 of /proc/PID/stat
}

func pidFile(dir state.Dir) string { return filepath.Join(string(dir), "supervisor.pid") }

// startSupervisor starts the cluster's first process in PID and network namespaces of
// its own and plugs it into the host. The listeners are handed over. The supervisor does
// nothing before it is told to go ahead, and ends where this process ends before that:
// so there is none that the pid file does not name.
func startSupervisor(cfg *state.Config, dir state.Dir, listeners [3]*os.File) (err error) {
	lock, err := state.Lock(dir.SupervisorLock())
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := os.MkdirAll(dir.Logs(), 0o755); err != nil {
		return err
	}
	if err := os.Remove(dir.Status()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	log, err := os.OpenFile(dir.SupervisorLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer log.Close()
	wait, goAhead, err := os.Pipe()
	if err != nil {
		return err
	}
	defer wait.Close()
	defer goAhead.Close()
	cmd := exec.Command(filepath.Join(cfg.PayloadDir, "bin/ropes-node"), "supervise", string(dir))
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lock, listeners[0], listeners[1], listeners[2], wait}
	cmd.SysProcAttr = &unix.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the supervisor: %w", explainClone(err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, cmd.Process.Kill())
		}
		// Reap it if it ends while this process lives.
		go cmd.Wait() //nolint:errcheck // the lock tells whether it lives
	}()
	start, err := startTime(cmd.Process.Pid)
	if err != nil {
		return err
	}
	if err := state.WriteJSON(pidFile(dir), process{cmd.Process.Pid, start}); err != nil {
		return err
	}
	if err := connect(cfg, cmd.Process.Pid); err != nil {
		return err
	}
	_, err = goAhead.Write([]byte{1})
	return err
}

// explainClone says what a refused clone(2) means.
func explainClone(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: this host does not allow new network and PID namespaces; `ropes doctor` says more", err)
	}
	return err
}

// stop ends the supervisor, and with it, as PID 1 of its namespace, all of the cluster.
func stop(ctx context.Context, dir state.Dir) error {
	if err := stopRecorded(ctx, dir); err != nil {
		return err
	}
	// One that was never told to go ahead ends by itself; its lock tells when.
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	return bootstrap.Poll(ctx, 20*time.Millisecond, func(context.Context) error {
		if state.Locked(dir.SupervisorLock()) {
			return fmt.Errorf("some process still holds %s", dir.SupervisorLock())
		}
		return nil
	})
}

// stopRecorded ends the process that the pid file names.
func stopRecorded(ctx context.Context, dir state.Dir) error {
	var p process
	data, err := os.ReadFile(pidFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("%s: %w", pidFile(dir), err)
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("supervisor %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if start, err := startTime(p.PID); err != nil || start != p.Start {
		return nil // the number belongs to somebody else by now
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); errors.Is(err, unix.ESRCH) {
			return nil
		} else if err != nil {
			return err
		}
		if ended, err := awaitEnd(ctx, fd, stopTimeout); ended || err != nil {
			return err
		}
	}
	return fmt.Errorf("supervisor %d does not end", p.PID)
}

// awaitEnd waits until the process behind a pidfd has ended.
func awaitEnd(ctx context.Context, fd int, timeout time.Duration) (bool, error) {
	deadline := time.Now().Add(timeout)
	for time.Now().Before(deadline) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n > 0 {
			return true, nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, err
		}
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
	}
	return false, nil
}

// startTime reads when a process started, in clock ticks since boot (proc(5)).
func startTime(pid int) (string, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", err
	}
	// The command's name may hold spaces and brackets: count from its end.
	_, rest, ok := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " ")
	fields := strings.Fields(rest)
	const startField = 22 - 3 // rest begins with field 3
	if !ok || len(fields) <= startField {
		return "", fmt.Errorf("unexpected /proc/%d/stat", pid)
	}
	return fields[startField], nil
}
