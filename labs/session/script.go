package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// scriptWait is how long a script's output may stay open after its end.
const scriptWait = 2 * time.Second

// ScriptError is a script that ended with another status than 0.
type ScriptError struct {
	Status int
	Output string // both streams, as they came
}

func (e *ScriptError) Error() string {
	return fmt.Sprintf("script ended with status %d: %s", e.Status, strings.TrimSpace(e.Output))
}

// RunScript runs a lab's script (a solution or a mistake) to its end with sh -eu, with
// KUBECONFIG set and toolDir first on PATH, and returns what it printed. When ctx ends it
// is killed with all that it started.
func RunScript(ctx context.Context, kubeconfig, toolDir, body string) (output string, err error) {
	dir, err := os.MkdirTemp("", "ropes-script-")
	if err != nil {
		return "", fmt.Errorf("script: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	file := filepath.Join(dir, "script.sh")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		return "", fmt.Errorf("script: %w", err)
	}
	cmd := exec.CommandContext(ctx, "sh", "-eu", file)
	cmd.Dir = dir
	// What kubectl discovers of this cluster stays with its kubeconfig: its own place goes by
	// address and port, where another cluster may have been before.
	discovered := filepath.Join(filepath.Dir(kubeconfig), "discovery")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "KUBECACHEDIR="+discovered, "PATH="+toolDir+string(os.PathListSeparator)+os.Getenv("PATH"))
	cmd.WaitDelay = scriptWait
	killGroup(cmd)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return string(out), fmt.Errorf("script: %w", context.Cause(ctx))
	case errors.As(err, &exit):
		return string(out), &ScriptError{Status: exit.ExitCode(), Output: string(out)}
	case err != nil:
		return string(out), fmt.Errorf("script: %w", err)
	}
	return string(out), nil
}
