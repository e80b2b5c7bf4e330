package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// DefaultStateDir is where progress lies unless told otherwise: $XDG_STATE_HOME/ropes, or
// ~/.local/state/ropes.
func DefaultStateDir() (string, error) {
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "ropes"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("state directory: %w", err)
	}
	return filepath.Join(home, ".local", "state", "ropes"), nil
}

// store keeps one cluster's progress and snapshots as files. Each file is replaced as a
// whole, so that a reader never sees half of one; whoever changes something holds the lock.
type store struct{ dir string }

const (
	progressFile = "progress.json"
	lockFile     = "lock"
	lockPoll     = 50 * time.Millisecond
)

// lock waits until no other process changes this cluster's state, or ctx ends.
func (s store) lock(ctx context.Context) (unlock func() error, err error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("progress: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("progress: %w", err)
	}
	t := time.NewTicker(lockPoll)
	defer t.Stop()
	for {
		ok, err := tryLock(f)
		if ok {
			return f.Close, nil // closing lets go of the lock
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock progress: %w", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("another ropes is changing this cluster's labs: %w", context.Cause(ctx)), f.Close())
		case <-t.C:
		}
	}
}

func (s store) progress() (Progress, error) {
	p := Progress{Labs: map[string]*LabProgress{}}
	err := s.read(progressFile, &p)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if p.Labs == nil {
		p.Labs = map[string]*LabProgress{}
	}
	return p, err
}

func (s store) saveProgress(p Progress) error { return s.write(progressFile, p) }

// The names of snapshots. Ids are DNS labels, so that a dot parts them.
func labKey(lab string) string        { return "baseline." + lab + ".json" }
func stepKey(lab, step string) string { return "baseline." + lab + "." + step + ".json" }

func (s store) snapshot(key string) (Snapshot, error) {
	var snap Snapshot
	err := s.read(key, &snap)
	if errors.Is(err, fs.ErrNotExist) {
		return snap, fmt.Errorf("%w (%s)", ErrNoSnapshot, filepath.Join(s.dir, key))
	}
	return snap, err
}

func (s store) saveSnapshot(key string, snap Snapshot) error { return s.write(key, snap) }

// forget removes the snapshots of a lab, or of all labs where lab is empty.
func (s store) forget(lab string) error {
	patterns := []string{labKey(lab), stepKey(lab, "*")}
	if lab == "" {
		patterns = []string{"baseline.*.json"}
	}
	var errs []error
	for _, p := range patterns {
		files, err := filepath.Glob(filepath.Join(s.dir, p))
		errs = append(errs, err)
		for _, f := range files {
			errs = append(errs, os.Remove(f))
		}
	}
	return errors.Join(errs...)
}

func (s store) read(name string, into any) error {
	file := filepath.Join(s.dir, name)
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s is damaged, remove it to start afresh: %w", file, err)
	}
	return nil
}

// write replaces a file. Snapshots hold Secrets: nobody else may read them.
func (s store) write(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	f, err := os.CreateTemp(s.dir, "."+name+".*")
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	defer os.Remove(f.Name()) // nothing is left of it once it is renamed
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), filepath.Join(s.dir, name)); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}
