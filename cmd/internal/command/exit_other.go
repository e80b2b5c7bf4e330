//go:build !unix

package command

import "os/exec"

// exitCode is a program's exit code.
func exitCode(err *exec.ExitError) int { return err.ExitCode() }
