//go:build !linux

package upstream

import (
	"errors"
	"net"
	"syscall"
)

func quiet(net.Conn) bool { return true }

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
