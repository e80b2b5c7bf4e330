//go:build unix

package kind

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lock keeps two runs off the same cluster until unlock is called or the process ends.
func (p *Provider) lock(name string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(p.lockPath(name)), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(p.lockPath(name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &BusyError{Name: name}
		}
		return nil, err
	}
	return func() {
		if _, err := os.Stat(p.statePath(name)); err != nil {
			os.Remove(p.lockPath(name))
			os.Remove(p.opts.StateDir) // works only where it is empty
		}
		f.Close()
	}, nil
}
