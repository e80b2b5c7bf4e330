//go:build live || livekind

// Package live drives the built program against real clusters that it brings up itself.
// It needs root and a binary with its payload, named by ROPES_BIN; without either it
// fails and says so.
package live

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"
)

// rig is a home of its own for the program under test.
type rig struct {
	bin, home, cache string
	cluster          string   // the one meant where a command names none; empty for ropes' own default
	extra            []string // of the environment
}

func newRig(t *testing.T) *rig {
	t.Helper()
	bin := os.Getenv("ROPES_BIN")
	if bin == "" {
		t.Fatal("ROPES_BIN is not set: it names the ropes binary, built with its payload, that this suite drives")
	}
	if os.Geteuid() != 0 {
		t.Fatal("the live suites bring up clusters, which needs root; this is uid", os.Geteuid())
	}
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // client-go's complaints about streams that were broken off
	home := t.TempDir()
	return &rig{bin: bin, home: home, cache: filepath.Join(home, ".cache")}
}

// result is what one run of the program gave.
type result struct {
	stdout, stderr string
	code           int
	took           time.Duration
}

func (r *rig) env() []string {
	return append([]string{"HOME=" + r.home, "PATH=" + os.Getenv("PATH"), "TERM=dumb", "SHELL=/bin/sh"}, r.extra...)
}

// command is ropes with arguments, to be started.
func (r *rig) command(ctx context.Context, args ...string) *exec.Cmd {
	if r.cluster != "" {
		args = append([]string{"--name", r.cluster}, args...)
	}
	cmd := exec.CommandContext(ctx, r.bin, args...)
	cmd.Env = r.env()
	return cmd
}

// run runs ropes and returns whatever it gave.
func (r *rig) run(t *testing.T, args ...string) result {
	t.Helper()
	return r.runIn(t, "", args...)
}

func (r *rig) runIn(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 15*time.Minute) // cleanups run ropes too
	defer cancel()
	cmd := r.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("ropes %s: %v", strings.Join(args, " "), err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), time.Since(start)}
}

// ok runs ropes and fails the test unless it ends with status 0.
func (r *rig) ok(t *testing.T, args ...string) result {
	t.Helper()
	res := r.run(t, args...)
	if res.code != 0 {
		t.Fatalf("ropes %s: status %d\n%s%s", strings.Join(args, " "), res.code, res.stdout, res.stderr)
	}
	return res
}

// status is the part of `ropes status -o json` that this suite reads.
type status struct {
	Ready   bool
	Cluster struct {
		Nodes                        []string
		APIPort, HTTPPort, HTTPSPort int
		Dir                          string
	}
	Health struct {
		Nodes []struct {
			Name  string
			Ready bool
		}
		Components []struct {
			Name  string
			Ready bool
		}
	}
	URLs struct{ ProductPage string }
}

func (r *rig) status(t *testing.T, args ...string) status {
	t.Helper()
	var s status
	res := r.ok(t, append([]string{"status", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(res.stdout), &s); err != nil {
		t.Fatalf("status -o json: %v\n%s", err, res.stdout)
	}
	return s
}
