package session

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLockIsExclusive(t *testing.T) {
	s := store{t.TempDir()}
	unlock, err := s.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*lockPoll)
	defer cancel()
	if _, err := s.lock(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another ropes") {
		t.Errorf("second lock: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	unlock, err = s.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}

func TestStoreFiles(t *testing.T) {
	s := store{filepath.Join(t.TempDir(), "new")}
	if p, err := s.progress(); err != nil || p.Lab != "" {
		t.Errorf("nothing stored: %+v, %v", p, err)
	}
	if err := s.saveProgress(Progress{Lab: "demo"}); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{labKey("demo"), stepKey("demo", "one"), labKey("demo-2")} {
		if err := s.saveSnapshot(k, Snapshot{Digest: k}); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(filepath.Join(s.dir, labKey("demo"))); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("a snapshot holds secrets: mode %v, %v", info.Mode(), err)
	}
	if err := s.forget("demo"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.snapshot(stepKey("demo", "one")); !errors.Is(err, ErrNoSnapshot) {
		t.Errorf("forgotten: %v", err)
	}
	if snap, err := s.snapshot(labKey("demo-2")); err != nil || snap.Digest != labKey("demo-2") {
		t.Errorf("another lab's: %+v, %v", snap, err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, progressFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.progress(); err == nil || !strings.Contains(err.Error(), progressFile+" is damaged") {
		t.Errorf("damaged: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(s.dir, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files %v, %v", left, err)
	}
}

func TestRunScript(t *testing.T) {
	tools := t.TempDir()
	if err := os.WriteFile(filepath.Join(tools, "kubectl"), []byte("#!/bin/sh\necho kubectl \"$@\" with $KUBECONFIG\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := RunScript(t.Context(), "/k", tools, "kubectl get ns\n")
	if err != nil || out != "kubectl get ns with /k\n" {
		t.Errorf("%q, %v", out, err)
	}
	var failed *ScriptError
	out, err = RunScript(t.Context(), "/k", tools, "echo before\nfalse\necho after\n")
	if !errors.As(err, &failed) || failed.Status != 1 || out != "before\n" {
		t.Errorf("failing: %q, %v", out, err)
	}
	if _, err = RunScript(t.Context(), "/k", tools, "echo $nothing\n"); !errors.As(err, &failed) {
		t.Errorf("unset variable: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err = RunScript(ctx, "/k", tools, "sleep 60\n"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 20*time.Second {
		t.Errorf("endless: %v after %v", err, time.Since(start))
	}
}
