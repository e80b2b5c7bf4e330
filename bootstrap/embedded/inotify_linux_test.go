package embedded

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestInotifyInstancesAreCounted(t *testing.T) {
	proc := t.TempDir()
	fd := filepath.Join(proc, "7", "fd")
	if err := os.MkdirAll(fd, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"0": "/dev/null", "3": "anon_inode:inotify", "4": "anon_inode:[eventpoll]", "5": "anon_inode:inotify"} {
		if err := os.Symlink(to, filepath.Join(fd, name)); err != nil {
			t.Fatal(err)
		}
	}
	uid := uint32(os.Getuid())
	if n := inotifyInstances(proc, uid); n != 2 {
		t.Errorf("%d, want 2", n)
	}
	if n := inotifyInstances(proc, uid+1); n != 0 {
		t.Errorf("another user's: %d, want 0", n)
	}
}

func TestOwnInotifyInstanceIsSeen(t *testing.T) {
	uid := uint32(os.Getuid())
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Skip(err)
	}
	defer unix.Close(fd)
	if n := inotifyInstances("/proc", uid); n < 1 {
		t.Errorf("%d, want at least the one that this test holds", n)
	}
}
