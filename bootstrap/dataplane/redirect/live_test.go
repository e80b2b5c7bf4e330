package redirect

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The live tests redirect real connections in network namespaces of their own: "pod",
// where the rules are applied and the proxy's ports answer with who they are and whom
// the caller had dialled, and "peer" beyond a link, which is the rest of the world. The
// callers are processes of their own, for the rules tell users apart.

const (
	podIP, podIP6   = "10.77.0.2", "fd77::2"
	peerIP, peerIP6 = "10.77.0.1", "fd77::1"
)

const callVariable = "ROPES_REDIRECT_CALL" // "NETWORK ADDRESS UID GID [FROM]"

func TestMain(m *testing.M) {
	if call := os.Getenv(callVariable); call != "" {
		if err := caller(strings.Fields(call)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// caller is the child process: it becomes a user, makes one connection and prints what
// it is told.
func caller(args []string) error {
	network, address := args[0], args[1]
	uid, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return err
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return err
	}
	if network == "validate" {
		return Main(context.Background(), []string{"--run-validation", "--skip-rule-apply", "--probe-timeout", address}, io.Discard, os.Stderr)
	}
	d := net.Dialer{Timeout: 5 * time.Second}
	if len(args) > 4 {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(args[4])}
	}
	conn, err := d.Dial(network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if network == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return err
		}
	}
	answer := make([]byte, 200)
	n, err := conn.Read(answer)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(answer[:n])
	return err
}

// identity is who calls.
type identity struct{ uid, gid int }

var (
	app        = identity{1000, 1000}
	root       = identity{0, 0}
	proxy      = identity{1337, 1337}
	proxyGroup = identity{1000, 1337}
)

// call is one expectation: who calls whom from where, and who answers. A TCP answer is
// the name of the listener and the address that the caller had dialled.
type call struct {
	from    *namespace
	who     identity
	network string
	address string
	bind    string
	want    string
}

func (c call) String() string {
	return fmt.Sprintf("%s as %d:%d to %s %s %s", c.from.name, c.who.uid, c.who.gid, c.network, c.address, c.bind)
}

func (c call) run() (string, error) {
	return c.from.exec(fmt.Sprintf("%s %s %d %d %s", c.network, c.address, c.who.uid, c.who.gid, c.bind))
}

func (n *namespace) exec(arguments string) (string, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), callVariable+"="+arguments)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := n.do(cmd.Start); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%w: %s", err, errs.String())
	}
	return out.String(), nil
}

func check(t *testing.T, calls []call) {
	t.Helper()
	for _, c := range calls {
		got, err := c.run()
		if err != nil {
			t.Errorf("%s: %v", c, err)
		} else if got != c.want {
			t.Errorf("%s: %q answers, want %q", c, got, c.want)
		}
	}
}

func (n *namespace) redirect(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := n.do(func() error { return Main(t.Context(), args, &out, io.Discard) }); err != nil {
		t.Fatalf("istio-iptables %q: %v", args, err)
	}
	return out.String()
}

func TestLiveTemplate(t *testing.T) {
	pod, peer := newPod(t)
	pod.redirect(t, template...)
	pod.redirect(t, template...) // as a restarted init container does
	check(t, []call{
		{peer, root, "tcp", podIP + ":8080", "", "inbound " + podIP + ":8080"},
		{peer, root, "tcp", "[" + podIP6 + "]:8080", "", "inbound [" + podIP6 + "]:8080"},
		{peer, root, "tcp", podIP + ":1", "", "inbound " + podIP + ":1"}, // no listener needed
		{peer, root, "tcp", podIP + ":15021", "", "status"},
		{peer, root, "tcp", podIP + ":15008", "", "tunnel"},

		{pod, app, "tcp", peerIP + ":80", "", "outbound " + peerIP + ":80"},
		{pod, root, "tcp", "203.0.113.9:81", "", "outbound 203.0.113.9:81"}, // no route to it, no matter
		{pod, app, "tcp", "[" + peerIP6 + "]:80", "", "outbound [" + peerIP6 + "]:80"},
		{pod, proxy, "tcp", peerIP + ":80", "", "world"},
		{pod, proxy, "tcp", "[" + peerIP6 + "]:80", "", "world"},
		{pod, proxyGroup, "tcp", peerIP + ":80", "", "world"},
		{pod, identity{1337, 1000}, "tcp", peerIP + ":80", "", "world"},
		{pod, app, "udp", peerIP + ":53", "", "resolver"},

		{pod, app, "tcp", "127.0.0.1:8080", "", "app"},
		{pod, app, "tcp", podIP + ":8080", "", "app"}, // itself, directly
		{pod, app, "tcp", "[" + podIP6 + "]:8080", "", "app"},
		{pod, proxy, "tcp", "127.0.0.1:8080", "", "app"},
		{pod, proxy, "tcp", podIP + ":8080", "", "inbound " + podIP + ":8080"},
		{pod, proxy, "tcp", "[" + podIP6 + "]:8080", "", "inbound [" + podIP6 + "]:8080"},
		{pod, proxy, "tcp", podIP + ":8080", "127.0.0.6", "app"}, // passed through
		{pod, proxy, "tcp", podIP + ":15008", "", "tunnel"},
	})
}

func TestLiveExclusions(t *testing.T) {
	pod, peer := newPod(t)
	pod.redirect(t, "-u", "1337", "-i", "10.77.0.0/16", "-x", "10.77.9.0/24", "-b", "8080,8081", "-o", "443,53", "-q", "82")
	check(t, []call{
		{peer, root, "tcp", podIP + ":8080", "", "inbound " + podIP + ":8080"},
		{peer, root, "tcp", podIP + ":15021", "", "status"},
		{pod, app, "tcp", peerIP + ":80", "", "outbound " + peerIP + ":80"},
		{pod, app, "tcp", peerIP + ":443", "", "world"},
		{pod, app, "tcp", "10.77.9.1:80", "", "world"},
		{pod, app, "tcp", "10.77.9.1:82", "", "world"},
		{pod, app, "tcp", "10.78.0.1:80", "", "world"},
		{pod, app, "tcp", "10.78.0.1:82", "", "outbound 10.78.0.1:82"},
	})
}

func TestLiveGroups(t *testing.T) {
	pod, _ := newPod(t)
	t.Setenv("ISTIO_OUTBOUND_OWNER_GROUPS", "1000,1001")
	pod.redirect(t, template...)
	check(t, []call{
		{pod, app, "tcp", peerIP + ":80", "", "outbound " + peerIP + ":80"},
		{pod, identity{5, 1001}, "tcp", peerIP + ":80", "", "outbound " + peerIP + ":80"},
		{pod, identity{1000, 5}, "tcp", peerIP + ":80", "", "world"},
	})
}

func TestLiveInterfaces(t *testing.T) {
	pod, peer := newPod(t)
	pod.redirect(t, append(template, "-c", "eth0")...)
	check(t, []call{
		{peer, root, "tcp", podIP + ":8080", "", "app"},
		{pod, app, "tcp", peerIP + ":80", "", "world"},
	})
	pod.redirect(t, append(template, "-k", "eth0")...)
	check(t, []call{
		{peer, root, "tcp", podIP + ":8080", "", "outbound " + podIP + ":8080"},
		{pod, app, "tcp", peerIP + ":80", "", "outbound " + peerIP + ":80"},
	})
}

func TestLiveDNS(t *testing.T) {
	pod, _ := newPod(t)
	pod.redirect(t, append(template, "--redirect-dns", "--capture-all-dns")...)
	check(t, []call{
		{pod, app, "udp", peerIP + ":53", "", "agent"},
		{pod, app, "udp", "[" + peerIP6 + "]:53", "", "agent"},
		{pod, app, "tcp", peerIP + ":53", "", "agent"},
		{pod, app, "udp", "127.0.0.1:53", "", "agent"}, // a resolver on localhost
		{pod, proxy, "udp", peerIP + ":53", "", "resolver"},
		{pod, proxyGroup, "udp", peerIP + ":53", "", "resolver"},
		{pod, app, "udp", peerIP + ":54", "", "resolver"},
		{pod, app, "tcp", peerIP + ":80", "", "outbound " + peerIP + ":80"},
	})
}

func TestLiveDropInvalidKeepsTraffic(t *testing.T) {
	pod, peer := newPod(t)
	pod.redirect(t, append(template, "--drop-invalid")...)
	check(t, []call{
		{peer, root, "tcp", podIP + ":8080", "", "inbound " + podIP + ":8080"},
		{pod, app, "tcp", peerIP + ":80", "", "outbound " + peerIP + ":80"},
	})
}

func TestLiveCleanup(t *testing.T) {
	pod, peer := newPod(t)
	pod.redirect(t, "--cleanup-only") // nothing there
	pod.redirect(t, append(template, "--redirect-dns", "--capture-all-dns", "--drop-invalid")...)
	pod.redirect(t, "--cleanup-only")
	check(t, []call{
		{peer, root, "tcp", podIP + ":8080", "", "app"},
		{pod, app, "tcp", peerIP + ":80", "", "world"},
		{pod, app, "udp", peerIP + ":53", "", "resolver"},
	})
	if got := pod.nft(t, "", "list", "ruleset"); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
}

func TestLiveDryRunAppliesNothing(t *testing.T) {
	pod, peer := newPod(t)
	if out := pod.redirect(t, append(template, "--dry-run")...); !strings.Contains(out, "redirect to :15006") {
		t.Errorf("printed %q", out)
	}
	check(t, []call{{peer, root, "tcp", podIP + ":8080", "", "app"}})
}

// What is printed is what the kernel got: nft, told the printed text, makes the same
// ruleset of it.
func TestLivePrintedIsApplied(t *testing.T) {
	pod, _ := newPod(t)
	printed := pod.redirect(t, append(template, "--redirect-dns", "--capture-all-dns", "--drop-invalid",
		"-x", "10.1.0.0/16,fd01::/16", "-q", "82", "-o", "443", "-c", "eth7", "-k", "vm0")...)
	applied := pod.nft(t, "", "list", "ruleset")
	pod.redirect(t, "--cleanup-only")
	pod.nft(t, printed, "-f", "-")
	if told := pod.nft(t, "", "list", "ruleset"); told != applied {
		t.Errorf("nft makes of the printed text\n%s\nbut applied was\n%s", told, applied)
	}
}

func TestLiveValidation(t *testing.T) {
	pod, _ := newBarePod(t)
	validation := fmt.Sprintf("validate 2s %d %d", proxy.uid, proxy.gid)
	if _, err := pod.exec(validation); err == nil || !strings.Contains(err.Error(), "not redirected") {
		t.Errorf("without rules: got %v", err)
	}
	pod.redirect(t, template...)
	if _, err := pod.exec(validation); err != nil {
		t.Errorf("with rules: %v", err)
	}
}
