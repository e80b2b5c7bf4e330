package kubeconfig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	lockEvery = 50 * time.Millisecond
	lockWait  = 5 * time.Second
	// lockStale is the age from which a lock is an orphan: holding it takes milliseconds.
	lockStale = 10 * time.Second
)

// lock makes the lock file that kubectl and kind respect as well. It differs in two
// things: it waits, and it breaks a lock whose holder is dead, since a learner may kill
// us at any moment.
func lock(ctx context.Context, path string) (unlock func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	for {
		err := makeLock(path)
		if err == nil {
			return func() error { return os.Remove(path) }, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("lock kubeconfig: %w", err)
		}
		if breakOrphan(path) {
			continue
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("kubeconfig is locked by another program; if none is running, remove %s: %w", path, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// makeLock creates the lock with our process id in it, in one step: at no moment is
// there a lock without a holder's name.
func makeLock(path string) error {
	tmp := path + "." + strconv.Itoa(os.Getpid())
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	err := os.Link(tmp, path)
	if err = errors.Join(err, os.Remove(tmp)); err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	// Some file systems know no hard links.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(os.Getpid()))
	return errors.Join(err, f.Close())
}

// breakOrphan removes a lock whose holder is dead or which is older than any honest
// hold, and tells whether it is worth trying again at once.
func breakOrphan(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return errors.Is(err, fs.ErrNotExist)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	dead := err == nil && !alive(pid)
	if !dead && time.Since(info.ModTime()) < lockStale {
		return false
	}
	// Move it aside and look again: another program may have broken and retaken the
	// lock between our look and now, and then it goes back.
	aside := path + ".orphan." + strconv.Itoa(os.Getpid())
	if os.Rename(path, aside) != nil {
		return true
	}
	defer os.Remove(aside)
	if moved, err := os.Stat(aside); err == nil && !os.SameFile(info, moved) {
		_ = os.Link(aside, path)
		return false
	}
	return true
}
