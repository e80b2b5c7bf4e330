// Package netcat is the program nc: it joins standard streams and one connection, or tries
// whether a port answers. It follows OpenBSD's options, but that the end of its input closes
// the sending half of the connection at once, as -N asks for there.
package netcat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

type netcat struct {
	call                                      *applet.Call
	zero, verbose, listen, keep, udp, numeric bool
	unix                                      bool
	wait, quit                                time.Duration // quit < 0: wait for the peer
	network                                   string
	host                                      string
	from, to                                  int // ports
	path                                      string
}

// Run is the program. It returns 0, or 1 where nothing answered, or 2 where it was misused.
func Run(ctx context.Context, call *applet.Call) int {
	n := &netcat{call: call, quit: -1}
	if err := n.parse(); err != nil {
		return call.Misused(err)
	}
	var err error
	switch {
	case n.listen && n.udp:
		err = n.listenUDP(ctx)
	case n.listen:
		err = n.serve(ctx)
	case n.zero:
		err = n.scan(ctx)
	default:
		err = n.client(ctx)
	}
	if ctx.Err() != nil {
		return applet.Ended(ctx)
	}
	if err != nil {
		if n.verbose || !errors.Is(err, errQuiet) {
			call.Errorf("%v", err)
		}
		return applet.Failure
	}
	return applet.OK
}

// errQuiet marks failures that are told only under -v, as nc does.
var errQuiet = errors.New("no connection")

func (n *netcat) parse() error {
	var opts applet.Options
	var four, six bool
	port := ""
	opts.Bool(&n.zero, "z")
	opts.Bool(&n.verbose, "v")
	opts.Bool(&n.listen, "l")
	opts.Bool(&n.keep, "k")
	opts.Bool(&n.udp, "u")
	opts.Bool(&n.numeric, "n")
	opts.Bool(&n.unix, "U")
	opts.Bool(&four, "4")
	opts.Bool(&six, "6")
	opts.Ignore("N")
	opts.String(&port, "p")
	seconds := func(name string, to *time.Duration) {
		opts.Value(name, func(v string) error {
			f, err := strconv.ParseFloat(v, 64)
			if err != nil || f > 1e9 {
				return fmt.Errorf("%q is not a number of seconds", v)
			}
			*to = time.Duration(f * float64(time.Second))
			return nil
		})
	}
	seconds("w", &n.wait)
	seconds("q", &n.quit)
	args, err := opts.Parse(n.call.Args)
	if err != nil {
		return err
	}
	n.network = "tcp"
	if n.udp {
		n.network = "udp"
	}
	if four {
		n.network += "4"
	} else if six {
		n.network += "6"
	}
	switch {
	case n.unix:
		n.network = "unix"
		if len(args) != 1 || n.udp {
			return errors.New("usage: nc -U [-l] PATH")
		}
		n.path = n.call.Path(args[0])
		return nil
	case n.listen && port != "" && len(args) <= 1:
		args = append(args, port)
	case n.listen && len(args) == 1:
	case !n.listen && len(args) == 2 && port == "":
	case !n.listen && port != "":
		return errors.New("-p without -l, a source port, is not supported")
	case n.listen && len(args) == 2:
	default:
		return errors.New("usage: nc [-nuvz46] [-w SECONDS] HOST PORT[-PORT], or nc -l [-ku] [-p] PORT")
	}
	if len(args) == 2 {
		n.host = args[0]
	}
	if n.numeric && n.host != "" && net.ParseIP(n.host) == nil {
		return fmt.Errorf("%s is not an address, and -n forbids to look it up", n.host)
	}
	return n.ports(args[len(args)-1])
}

func (n *netcat) ports(s string) (err error) {
	from, to, ranged := strings.Cut(s, "-")
	if n.from, err = n.portOf(from); err != nil {
		return err
	}
	n.to = n.from
	if ranged {
		n.to, err = n.portOf(to)
	}
	if err == nil && (n.to < n.from || ranged && !n.zero) {
		return fmt.Errorf("%q: a range needs -z, and runs upward", s)
	}
	return err
}

func (n *netcat) portOf(s string) (int, error) {
	p, err := net.LookupPort(strings.TrimRight(n.network, "46"), s)
	if err != nil || p < 1 {
		return 0, fmt.Errorf("%q is not a port", s)
	}
	return p, nil
}

func (n *netcat) dial(ctx context.Context, port int) (net.Conn, error) {
	d := net.Dialer{Timeout: n.wait}
	addr := net.JoinHostPort(n.host, strconv.Itoa(port))
	if n.unix {
		addr = n.path
	}
	conn, err := d.DialContext(ctx, n.network, addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s (%s) failed: %w", addr, n.network, tell{err})
	}
	return conn, nil
}

// tell makes an error of dialling one that is told only under -v.
type tell struct{ error }

func (t tell) Unwrap() []error { return []error{t.error, errQuiet} }

// scan tries each port of the range. One that answers is enough.
func (n *netcat) scan(ctx context.Context) error {
	var last error
	answered := false
	for port := n.from; port <= n.to; port++ {
		conn, err := n.dial(ctx, port)
		if err == nil && n.udp {
			err = n.tryUDP(conn)
		}
		if conn != nil {
			_ = conn.Close() // it has served its purpose
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			last = err
			if n.verbose && n.to > n.from {
				n.call.Errorf("%v", err)
			}
			continue
		}
		answered = true
		n.succeeded(port)
	}
	if answered {
		return nil
	}
	return last
}

// succeeded tells, under -v, that the connection is there. Labs' TLS probes wait for this line
// before they send anything.
func (n *netcat) succeeded(port int) {
	switch {
	case !n.verbose:
	case n.unix:
		fmt.Fprintf(n.call.Err, "Connection to %s succeeded!\n", n.path)
	default:
		fmt.Fprintf(n.call.Err, "Connection to %s %d port [%s/*] succeeded!\n", n.host, port, strings.TrimRight(n.network, "46"))
	}
}

// tryUDP finds out whether somebody refuses. Silence counts as an answer, as it must.
func (n *netcat) tryUDP(conn net.Conn) error {
	for range 2 {
		if _, err := conn.Write([]byte("X")); err != nil {
			return fmt.Errorf("%w: %w", errQuiet, err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			return err
		}
		_, err := conn.Read(make([]byte, 1))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("%w: %w", errQuiet, err)
		}
	}
	return nil
}

func (n *netcat) client(ctx context.Context) error {
	conn, err := n.dial(ctx, n.from)
	if err != nil {
		return err
	}
	n.succeeded(n.from)
	return n.join(ctx, conn)
}

// serve accepts one connection after another; without -k, one.
func (n *netcat) serve(ctx context.Context) error {
	addr := net.JoinHostPort(n.host, strconv.Itoa(n.from))
	if n.unix {
		addr = n.path
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, n.network, addr)
	if err != nil {
		return err
	}
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	if n.verbose {
		fmt.Fprintf(n.call.Err, "Listening on %s\n", l.Addr())
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		if n.verbose {
			fmt.Fprintf(n.call.Err, "Connection received on %s\n", conn.RemoteAddr())
		}
		if err := n.join(ctx, conn); err != nil || !n.keep {
			return err
		}
	}
}

// listenUDP takes the first packet's sender for its peer.
func (n *netcat) listenUDP(ctx context.Context) error {
	pc, err := (&net.ListenConfig{}).ListenPacket(ctx, n.network, net.JoinHostPort(n.host, strconv.Itoa(n.from)))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = pc.Close() })
	defer stop()
	defer pc.Close()
	buf := make([]byte, 64<<10)
	answering := false
	for {
		if n.wait > 0 {
			if err := pc.SetReadDeadline(time.Now().Add(n.wait)); err != nil {
				return err
			}
		}
		k, peer, err := pc.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := n.call.Out.Write(buf[:k]); err != nil {
			return err
		}
		if !answering {
			answering = true
			go func() { _, _ = io.Copy(packetWriter{pc, peer}, n.call.In) }() // ends with either side
		}
	}
}

// packetWriter sends each write as a packet.
type packetWriter struct {
	pc   net.PacketConn
	peer net.Addr
}

func (w packetWriter) Write(p []byte) (int, error) { return w.pc.WriteTo(p, w.peer) }

// join copies both ways until the peer is done, -q after the end of input is over, or
// nothing came for -w.
func (n *netcat) join(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if n.zero {
		return nil
	}
	go func() {
		if _, err := io.Copy(conn, n.call.In); err != nil {
			return // the reading side sees it too
		}
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
		if n.quit >= 0 {
			_ = conn.SetReadDeadline(time.Now().Add(n.quit))
		}
	}()
	buf := make([]byte, 32<<10)
	for {
		if n.wait > 0 {
			if err := conn.SetReadDeadline(time.Now().Add(n.wait)); err != nil {
				return err
			}
		}
		k, err := conn.Read(buf)
		if k > 0 {
			if _, err := n.call.Out.Write(buf[:k]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return err
		}
	}
}
