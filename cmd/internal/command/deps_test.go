package command

import (
	"path/filepath"
	"testing"
)

// TestUserDir: what is kept of clusters must not lie where a system cleans up.
func TestUserDir(t *testing.T) {
	home := t.TempDir()
	other := filepath.Join(home, "other")
	for name, tt := range map[string]struct {
		env  map[string]string
		want string
	}{
		"home":             {map[string]string{"HOME": home, "USERPROFILE": other}, filepath.Join(home, ".local", "state", "ropes")},
		"home of Windows":  {map[string]string{"USERPROFILE": home}, filepath.Join(home, ".local", "state", "ropes")},
		"XDG":              {map[string]string{"HOME": home, "XDG_STATE_HOME": other}, filepath.Join(other, "ropes")},
		"XDG, not a place": {map[string]string{"HOME": home, "XDG_STATE_HOME": "other"}, filepath.Join(home, ".local", "state", "ropes")},
	} {
		t.Run(name, func(t *testing.T) {
			if got := StateDir(func(k string) string { return tt.env[k] }); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}
