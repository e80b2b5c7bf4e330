//go:build unix

package command

import (
	"os/exec"
	"syscall"
)

// exitCode is a program's exit code as a shell would tell it.
func exitCode(err *exec.ExitError) int {
	if ws, ok := err.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return err.ExitCode()
}
