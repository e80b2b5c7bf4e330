package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program that runs while the bench does, on CPUs of its own.
type process struct {
	name string
	cmd  *exec.Cmd
	said bytes.Buffer
	done chan error
}

// start runs argv on the listed CPUs and waits until port takes connections.
func start(ctx context.Context, name, cpus string, port int, argv ...string) (*process, error) {
	p := &process{name: name, done: make(chan error, 1)}
	p.cmd = exec.Command("taskset", append([]string{"-c", cpus}, argv...)...) //nolint:noctx // stop ends it, with a signal
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	for range 200 {
		select {
		case err := <-p.done:
			p.done <- err
			return nil, fmt.Errorf("%s ended: %w\n%s", name, err, p.said.String())
		case <-ctx.Done():
			return p, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		c, err := net.Dial("tcp", local(port))
		if err == nil {
			_ = c.Close()
			return p, nil
		}
	}
	return p, fmt.Errorf("%s does not listen on port %d\n%s", name, port, p.said.String())
}

// stop ends the process, by force where it takes too long.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// pids are the process and its children: nginx works in children.
func (p *process) pids() []int {
	pid := p.cmd.Process.Pid
	out := []int{pid}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return out
	}
	for f := range strings.FieldsSeq(string(b)) {
		if n, err := strconv.Atoi(f); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// cpu is the processor time that the process has used.
func (p *process) cpu() time.Duration {
	var ticks uint64
	for _, pid := range p.pids() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		_, rest, ok := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		if !ok || len(f) < 13 {
			continue
		}
		for _, s := range f[11:13] { // utime, stime
			n, err := strconv.ParseUint(s, 10, 64)
			if err == nil {
				ticks += n
			}
		}
	}
	return time.Duration(ticks) * time.Second / 100
}

// memory is the resident set in bytes: what is the process's own, and all.
func (p *process) memory() (own, all uint64) {
	for _, pid := range p.pids() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			kb, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				continue
			}
			switch f[0] {
			case "RssAnon:":
				own += kb << 10
			case "VmRSS:":
				all += kb << 10
			}
		}
	}
	return own, all
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// freePorts finds n ports that nobody listens on now.
func freePorts(n int) (ports []int, err error) {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			err = errors.Join(err, l.Close())
		}
	}()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		held = append(held, l)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
