package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

func TestParseMount(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		want       Hierarchy
		ok         bool
	}{
		{
			name: "unified root",
			line: "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate",
			want: Hierarchy{FSType: "cgroup2"}, ok: true,
		},
		{
			name: "co-mounted controllers of version 1",
			line: "33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
			want: Hierarchy{Dir: "cpu,cpuacct", FSType: "cgroup", Options: "cpu,cpuacct"}, ok: true,
		},
		{
			name: "named hierarchy",
			line: "31 30 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd",
			want: Hierarchy{Dir: "systemd", FSType: "cgroup", Options: "none,name=systemd"}, ok: true,
		},
		{name: "another file system", line: "22 1 0:20 / /proc rw - proc proc rw"},
		{name: "cgroup elsewhere", line: "22 1 0:20 / /mnt/cgroup rw - cgroup2 x rw"},
		{name: "cut off", line: "22 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parseMount(tt.line)
			if ok != tt.ok || got != tt.want {
				t.Errorf("got %+v, %t, want %+v, %t", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestInheritCPUSetFillsAnEmptyGroupFromItsParent(t *testing.T) {
	parent, child := t.TempDir(), t.TempDir()
	write := func(dir, value string) {
		t.Helper()
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := os.WriteFile(filepath.Join(dir, f), []byte(value), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(parent, "0-1\n")
	write(child, "\n")
	if err := inheritCPUSet(parent, child); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(child, "cpuset.cpus"))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != "0-1\n" {
		t.Errorf("child has cpus %q, want its parent's", got)
	}
}
