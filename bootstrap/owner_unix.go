//go:build unix

package bootstrap

import (
	"os"
	"syscall"
)

// keepOwner gives f the owner of the file at path, as far as this process may.
func keepOwner(f *os.File, path string) {
	info, err := os.Stat(path)
	if err != nil {
		return
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(st.Uid), int(st.Gid)) // only root may give it away
	}
}
