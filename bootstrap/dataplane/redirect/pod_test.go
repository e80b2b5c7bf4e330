package redirect

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace that lives as long as its test.
type namespace struct {
	name   string
	handle netns.NsHandle
	nl     *netlink.Handle
}

// do runs f on a thread that is in the namespace. The thread is not used again.
func (n *namespace) do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := netns.Set(n.handle); err != nil {
			result <- fmt.Errorf("enter namespace %s: %w", n.name, err)
			return
		}
		result <- f()
	}()
	return <-result
}

func newNamespace(t *testing.T, name string) *namespace {
	t.Helper()
	n := &namespace{name: name}
	made := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		var err error
		n.handle, err = netns.New()
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatalf("make a network namespace (this test runs as root and needs CAP_SYS_ADMIN): %v", err)
	}
	t.Cleanup(func() { _ = n.handle.Close() })
	nl, err := netlink.NewHandleAt(n.handle)
	must(t, err)
	t.Cleanup(nl.Close)
	n.nl = nl
	n.up(t, "lo")
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// up gives an interface addresses and sets it up.
func (n *namespace) up(t *testing.T, link string, addresses ...string) netlink.Link {
	t.Helper()
	l, err := n.nl.LinkByName(link)
	must(t, err)
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		must(t, err)
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		must(t, n.nl.AddrAdd(l, addr))
	}
	must(t, n.nl.LinkSetUp(l))
	return l
}

// newBarePod joins a pod and its peer, without any listener.
func newBarePod(t *testing.T) (pod, peer *namespace) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: namespaces and nf_tables need it")
	}
	pod, peer = newNamespace(t, "pod"), newNamespace(t, "peer")
	must(t, peer.nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pod0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.handle)}))
	peer.up(t, "pod0", peerIP+"/24", peerIP6+"/64", "10.77.9.1/32", "10.78.0.1/32")
	eth := pod.up(t, "eth0", podIP+"/24", podIP6+"/64")
	must(t, pod.nl.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.ParseIP(peerIP)}))
	return pod, peer
}

// newPod joins a pod in which a proxy and an application answer with a peer that
// answers for the world.
func newPod(t *testing.T) (pod, peer *namespace) {
	t.Helper()
	pod, peer = newBarePod(t)
	for port, name := range map[int]string{15001: "outbound", 15006: "inbound", 15008: "tunnel", 15021: "status", 8080: "app", agentDNSPort: "agent"} {
		pod.answer(t, port, name)
	}
	pod.answerDatagrams(t, agentDNSPort, "agent")
	for _, port := range []int{80, 82, 443} {
		peer.answer(t, port, "world")
	}
	peer.answerDatagrams(t, dnsPort, "resolver")
	peer.answerDatagrams(t, dnsPort+1, "resolver")
	return pod, peer
}

// answer listens and tells callers the listener's name, and the address they dialled
// where that is a name of the proxy's two ports.
func (n *namespace) answer(t *testing.T, port int, name string) {
	t.Helper()
	var ln net.Listener
	must(t, n.do(func() (err error) {
		ln, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	}))
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			answer := name
			if strings.HasSuffix(name, "bound") {
				answer += " " + original(conn.(*net.TCPConn))
			}
			_, _ = conn.Write([]byte(answer))
			_ = conn.Close()
		}
	}()
}

func (n *namespace) answerDatagrams(t *testing.T, port int, name string) {
	t.Helper()
	for _, network := range []string{"udp4", "udp6"} {
		// As pilot-agent, on localhost; the world answers on its addresses.
		hosts := map[string]string{"agent udp4": "127.0.0.1", "agent udp6": "::1", "resolver udp4": peerIP, "resolver udp6": peerIP6}
		var conn net.PacketConn
		must(t, n.do(func() (err error) {
			if name == "agent" {
				if err := ownSocketsAs(proxy.uid); err != nil {
					return err
				}
			}
			conn, err = net.ListenPacket(network, net.JoinHostPort(hosts[name+" "+network], fmt.Sprint(port)))
			return err
		}))
		t.Cleanup(func() { _ = conn.Close() })
		go func() {
			buf := make([]byte, 10)
			for {
				_, from, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = conn.WriteTo([]byte(name), from)
			}
		}()
	}
}

// ownSocketsAs makes this thread's sockets those of a user, by which the rules know
// them; the thread keeps root's other rights.
func ownSocketsAs(uid int) error {
	// Of one thread only, unlike the functions of package syscall.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// original is the address that a connection's caller dialled.
func original(conn *net.TCPConn) string {
	if conn.LocalAddr().(*net.TCPAddr).IP.To4() != nil {
		to, err := originalDestination(conn)
		if err != nil {
			return err.Error()
		}
		return to.String()
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err.Error()
	}
	answer := ""
	err = raw.Control(func(fd uintptr) {
		to, err := unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, unix.SO_ORIGINAL_DST)
		if err != nil {
			answer = err.Error()
			return
		}
		port := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, to.Addr.Port))
		answer = netip.AddrPortFrom(netip.AddrFrom16(to.Addr.Addr), port).String()
	})
	if err != nil {
		return err.Error()
	}
	return answer
}

// nft runs Debian's nft in the namespace; it is only there to look.
func (n *namespace) nft(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("nft is not installed")
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out []byte
	if err := n.do(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	}); err != nil {
		t.Fatalf("nft %q: %v: %s\n%s", args, err, out, stdin)
	}
	return string(out)
}
