package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// restartDelay keeps a component that cannot start from spinning.
const restartDelay = time.Second

// processes keeps the node's components running. As PID 1 it is also the parent of
// every orphan, so that one loop waits for all children and tells who it was.
//
// Life of a component: start -> exit -> (restartDelay) -> start ... until stop.
type processes struct {
	log *slog.Logger

	mu       sync.Mutex
	waiters  map[int]chan unix.WaitStatus // by pid of a component
	order    []string                     // components as they were first started
	pids     map[string]int
	stopping bool
}

func newProcesses(log *slog.Logger) *processes {
	return &processes{log: log, waiters: map[int]chan unix.WaitStatus{}, pids: map[string]int{}}
}

// reap waits for children as they end, for ever.
func (p *processes) reap() {
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, unix.SIGCHLD)
	for {
		p.reapAll()
		<-sigs
	}
}

func (p *processes) reapAll() {
	for {
		var ws unix.WaitStatus
		// The lock spans start and wait alike: a child cannot end before it is known.
		p.mu.Lock()
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		waiter := p.waiters[pid]
		delete(p.waiters, pid)
		p.mu.Unlock()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if waiter != nil {
			waiter <- ws
		}
	}
}

// keep starts a component and starts it again whenever it ends, until stop.
func (p *processes) keep(ctx context.Context, name string, argv []string) error {
	exited, err := p.start(name, argv)
	if err != nil {
		return err
	}
	go func() {
		for {
			ws := <-exited
			p.log.Warn("component ended", "component", name, "exit", ws.ExitStatus(), "signal", ws.Signal().String())
			for {
				select {
				case <-ctx.Done():
					return
				case <-time.After(restartDelay):
				}
				if exited, err = p.start(name, argv); err == nil {
					break
				}
				p.log.Error("restart", "component", name, "err", err)
			}
		}
	}()
	return nil
}

// start runs argv[0] from PATH with its output appended to /var/log/NAME.log.
func (p *processes) start(name string, argv []string) (<-chan unix.WaitStatus, error) {
	logfile, err := os.OpenFile(filepath.Join("/var/log", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, err
	}
	defer logfile.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return nil, errors.New("the node is stopping")
	}
	proc, err := os.StartProcess("/usr/local/bin/ropes-node", argv, &os.ProcAttr{
		Dir:   "/",
		Files: []*os.File{null, logfile, logfile},
		Sys:   &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	exited := make(chan unix.WaitStatus, 1)
	p.waiters[proc.Pid] = exited
	p.pids[name] = proc.Pid
	p.order = append(p.order, name)
	return exited, proc.Release()
}

// stop ends the components in reverse order, giving each up to limit.
func (p *processes) stop(limit time.Duration) {
	p.mu.Lock()
	p.stopping = true
	var pids []int
	for i := len(p.order) - 1; i >= 0; i-- {
		if pid := p.pids[p.order[i]]; pid != 0 {
			pids = append(pids, pid)
			p.pids[p.order[i]] = 0
		}
	}
	p.mu.Unlock()
	deadline := time.Now().Add(limit)
	for _, pid := range pids {
		if unix.Kill(pid, unix.SIGTERM) != nil {
			continue
		}
		for time.Now().Before(deadline) && unix.Kill(pid, 0) == nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
}
