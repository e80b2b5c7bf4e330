// Package cgroup makes, fills and removes control groups on hosts of either version.
// It sets no limits and knows no cluster.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Mountpoint is where a Linux host mounts its hierarchies.
const Mountpoint = "/sys/fs/cgroup"

// Hierarchy is one mounted cgroup file system.
type Hierarchy struct {
	Dir     string // below Mountpoint; empty for the unified root
	FSType  string // cgroup or cgroup2
	Options string // mount options that name its controllers
}

// Path is where the group called name stands in the hierarchy.
func (h Hierarchy) Path(name string) string { return filepath.Join(Mountpoint, h.Dir, name) }

// Hierarchies lists what is mounted, as this process sees it.
func Hierarchies() ([]Hierarchy, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []Hierarchy
	seen := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		if h, ok := parseMount(line); ok && !seen[h.Dir] {
			seen[h.Dir] = true
			out = append(out, h)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no cgroup file system is mounted below %s", Mountpoint)
	}
	return out, nil
}

// parseMount reads one line of mountinfo (proc(5)).
func parseMount(line string) (Hierarchy, bool) {
	before, after, ok := strings.Cut(line, " - ")
	if !ok {
		return Hierarchy{}, false
	}
	left, right := strings.Fields(before), strings.Fields(after)
	if len(left) < 5 || len(right) < 3 {
		return Hierarchy{}, false
	}
	dir, under := strings.CutPrefix(left[4], Mountpoint)
	fstype := right[0]
	if !under || (fstype != "cgroup" && fstype != "cgroup2") {
		return Hierarchy{}, false
	}
	h := Hierarchy{Dir: strings.TrimPrefix(dir, "/"), FSType: fstype}
	if fstype == "cgroup" {
		h.Options = controllers(right[2])
	}
	return h, true
}

// controllers keeps those super options that name controllers.
func controllers(super string) string {
	var keep []string
	for o := range strings.SplitSeq(super, ",") {
		switch {
		case o == "rw", o == "ro", o == "clone_children", o == "xattr", o == "noprefix",
			strings.HasPrefix(o, "release_agent="):
		case strings.HasPrefix(o, "name="):
			// A named hierarchy is mounted by its name, without a controller.
			return "none," + o
		default:
			keep = append(keep, o)
		}
	}
	return strings.Join(keep, ",")
}

// Create makes the group called name, a path of one or more elements, in each
// hierarchy, ready to take processes and children.
func Create(hs []Hierarchy, name string) error {
	for _, h := range hs {
		if err := create(h, name); err != nil {
			return fmt.Errorf("create cgroup %s: %w", h.Path(name), err)
		}
	}
	return nil
}

func create(h Hierarchy, name string) error {
	parent := h.Path("")
	for elem := range strings.SplitSeq(name, "/") {
		if h.FSType == "cgroup2" && h.Dir == "" {
			if err := delegate(parent); err != nil {
				return err
			}
		}
		child := filepath.Join(parent, elem)
		if err := os.Mkdir(child, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := inheritCPUSet(parent, child); err != nil {
			return err
		}
		parent = child
	}
	return nil
}

// delegate hands every controller of a unified group on to its children.
func delegate(dir string) error {
	names, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for c := range strings.FieldsSeq(string(names)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("delegate %s: %w", c, err)
		}
	}
	return nil
}

// inheritCPUSet fills a new group's cpuset from its parent: on version 1 an empty one
// takes no process.
func inheritCPUSet(parent, child string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(child, file))
		if errors.Is(err, fs.ErrNotExist) || (err == nil && strings.TrimSpace(string(have)) != "") {
			continue
		}
		if err != nil {
			return err
		}
		value, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(value)) == "" {
			continue // unified: empty means the parent's
		}
		if err := os.WriteFile(filepath.Join(child, file), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Add moves a process into the group.
func Add(hs []Hierarchy, name string, pid int) error {
	for _, h := range hs {
		file := filepath.Join(h.Path(name), "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("move process into cgroup %s: %w", h.Path(name), err)
		}
	}
	return nil
}

// Remove takes away the group and all below it. Its processes must have ended.
func Remove(hs []Hierarchy, name string) error {
	var errs []error
	for _, h := range hs {
		errs = append(errs, removeTree(h.Path(name)))
	}
	return errors.Join(errs...)
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() {
			errs = append(errs, removeTree(filepath.Join(dir, e.Name())))
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
	}
	return errors.Join(errs...)
}
