// Command ociruntime is runc for machines that withhold CAP_SYS_RESOURCE: as the default
// runtime of a Docker daemon it takes out of each container's specification what only a
// process with that capability may ask for, and then becomes runc. `make test-kind` sets
// it where it is needed; nothing that ropes ships does.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const withheld = "CAP_SYS_RESOURCE"

func main() {
	err := run(os.Args[1:])
	fmt.Fprintln(os.Stderr, "ociruntime:", err)
	os.Exit(1)
}

// run only returns where runc could not be started.
func run(args []string) error {
	if err := prepare(args); err != nil {
		return err
	}
	path := os.Getenv("OCIRUNTIME_RUNC")
	if path == "" {
		var err error
		if path, err = exec.LookPath("runc"); err != nil {
			return err
		}
	}
	return syscall.Exec(path, append([]string{"runc"}, args...), os.Environ())
}

// prepare rewrites the file that runc is about to read, if there is one.
func prepare(args []string) error {
	switch command := commandOf(args); command {
	case "create", "run":
		dir := option(args, "--bundle", "-b")
		return rewrite(filepath.Join(dir, "config.json"), func(spec map[string]any) any { return spec["process"] })
	case "exec":
		if file := option(args, "--process", "-p"); file != "" {
			return rewrite(file, func(process map[string]any) any { return process })
		}
	}
	return nil
}

// commandOf is the first of runc's commands among args; what stands before it are
// global options with their values.
func commandOf(args []string) string {
	for _, a := range args {
		if slices.Contains([]string{"create", "run", "exec", "start", "state", "delete", "kill", "ps", "events", "features", "update", "pause", "resume"}, a) {
			return a
		}
	}
	return ""
}

func option(args []string, names ...string) string {
	for i, a := range args {
		for _, n := range names {
			if a == n && i+1 < len(args) {
				return args[i+1]
			}
			if v, ok := strings.CutPrefix(a, n+"="); ok {
				return v
			}
		}
	}
	return ""
}

func rewrite(path string, process func(map[string]any) any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var doc map[string]any
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.UseNumber() // what is not ours to change stays as it was written
	if err := dec.Decode(&doc); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	p, ok := process(doc).(map[string]any)
	if !ok {
		return nil
	}
	score, err := ownScore()
	if err != nil {
		return err
	}
	confine(p, score)
	if data, err = json.Marshal(doc); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// confine takes the capability away, and keeps the OOM score from falling below that of
// this process and limits from rising above its own.
func confine(p map[string]any, score int64) {
	if sets, ok := p["capabilities"].(map[string]any); ok {
		for name, v := range sets {
			if list, ok := v.([]any); ok {
				sets[name] = slices.DeleteFunc(list, func(c any) bool { return c == withheld })
			}
		}
	}
	if n, ok := p["oomScoreAdj"].(json.Number); ok {
		if v, err := n.Int64(); err == nil && v < score {
			p["oomScoreAdj"] = score
		}
	}
	delete(p, "rlimits")
}

func ownScore() (int64, error) {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return v, err
}
