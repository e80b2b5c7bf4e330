package listener

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"
)

const soOriginalDst = 80 // SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST

var errNotSocket = errors.New("not a TCP socket")

// originalDst asks the kernel where a redirected connection was bound for. A connection that was not redirected is an
// error.
func originalDst(c net.Conn) (netip.AddrPort, error) {
	for {
		u, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = u.NetConn()
	}
	tc, ok := c.(*net.TCPConn)
	if !ok {
		return netip.AddrPort{}, errNotSocket
	}
	raw, err := tc.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var out netip.AddrPort
	var callErr error
	local, _ := tc.LocalAddr().(*net.TCPAddr)
	err = raw.Control(func(fd uintptr) {
		if local != nil && local.IP.To4() != nil {
			out, callErr = originalV4(fd)
			return
		}
		out, callErr = originalV6(fd)
	})
	if err != nil {
		return netip.AddrPort{}, err
	}
	if callErr != nil {
		return netip.AddrPort{}, fmt.Errorf("SO_ORIGINAL_DST: %w", callErr)
	}
	return out, nil
}

func originalV4(fd uintptr) (netip.AddrPort, error) {
	var sa syscall.RawSockaddrInet4
	size := uint32(unsafe.Sizeof(sa))
	if err := getsockopt(fd, syscall.SOL_IP, unsafe.Pointer(&sa), &size); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), port(sa.Port)), nil
}

func originalV6(fd uintptr) (netip.AddrPort, error) {
	var sa syscall.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(sa))
	if err := getsockopt(fd, syscall.SOL_IPV6, unsafe.Pointer(&sa), &size); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), port(sa.Port)), nil
}

// port turns a port in network byte order as it lies in memory.
func port(p uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], p)
	return binary.BigEndian.Uint16(b[:])
}

func getsockopt(fd uintptr, level int, val unsafe.Pointer, size *uint32) error {
	_, _, e := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, uintptr(level), soOriginalDst, uintptr(val),
		uintptr(unsafe.Pointer(size)), 0)
	if e != 0 {
		return e
	}
	return nil
}
