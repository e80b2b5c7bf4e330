//go:build unix

package kubeconfig

import (
	"errors"
	"syscall"
)

// alive tells whether a process with that id exists, whoever owns it.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
