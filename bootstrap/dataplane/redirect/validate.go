package redirect

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// validate proves that redirection works: a connection of this process from the
// loopback address to the probe port of another loopback address has to arrive at one
// of the proxy's ports, with the address that was dialled as its original one. The
// ports must be free, so this is for before the proxy starts.
func validate(ctx context.Context, c *config, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	want := netip.AddrPortFrom(ipv4.passthrough().Addr(), c.probePort)
	arrived := make(chan netip.AddrPort)
	listening := 0
	var errs []error
	for _, p := range []uint16{c.outboundPort, c.inboundPort} {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		listening++
		defer func() { _ = ln.Close() }()
		go receive(ctx, ln, arrived)
	}
	if listening == 0 {
		return fmt.Errorf("validate redirection: %w", errors.Join(errs...))
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}
	conn, err := dialer.DialContext(ctx, "tcp4", want.String())
	if err != nil {
		return fmt.Errorf("validate redirection: a connection is not redirected: %w", err)
	}
	defer func() { _ = conn.Close() }()
	select {
	case got := <-arrived:
		if got != want {
			return fmt.Errorf("validate redirection: a connection to %s arrives as one to %s", want, got)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("validate redirection: a connection to %s went elsewhere: %w", want, ctx.Err())
	}
}

// receive hands over the original destination of the first connection.
func receive(ctx context.Context, ln net.Listener, arrived chan<- netip.AddrPort) {
	conn, err := ln.Accept()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	to, err := originalDestination(conn.(*net.TCPConn))
	if err != nil {
		return
	}
	select {
	case arrived <- to:
	case <-ctx.Done():
	}
}

// originalDestination returns the IPv4 address that a redirected connection was for.
func originalDestination(conn syscall.Conn) (netip.AddrPort, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var to *unix.IPv6Mreq // what is asked for is a sockaddr_in, and fits
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		to, optErr = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST)
	}); err != nil {
		return netip.AddrPort{}, err
	}
	if optErr != nil {
		return netip.AddrPort{}, fmt.Errorf("SO_ORIGINAL_DST: %w", optErr)
	}
	const port, addr = 2, 4
	a := netip.AddrFrom4([4]byte(to.Multiaddr[addr : addr+4]))
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(to.Multiaddr[port:])), nil
}
