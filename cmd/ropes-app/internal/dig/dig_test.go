package dig

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// zone is what the test's server knows.
var zone = map[string][]string{
	"web.shop.svc.cluster.local. A":    {"web.shop.svc.cluster.local. 5 IN A 10.96.0.7"},
	"web.shop.svc.cluster.local. AAAA": {},
	"_http._tcp.web.example. SRV":      {"_http._tcp.web.example. 5 IN SRV 0 50 80 a.web.example."},
	"txt.example. TXT":                 {`txt.example. 5 IN TXT "two words"`},
	"7.0.96.10.in-addr.arpa. PTR":      {"7.0.96.10.in-addr.arpa. 5 IN PTR web.shop.svc.cluster.local."},
	"big.example. A":                   {"big.example. 5 IN A 10.0.0.1", "big.example. 5 IN A 10.0.0.2"},
}

// server answers from the zone, big.example in full by TCP only, and never by UDP for tcp.example.
func server(t *testing.T) (port string) {
	t.Helper()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Authoritative = true
		q := r.Question[0]
		rrs, ok := zone[q.Name+" "+dns.TypeToString[q.Qtype]]
		if !ok {
			m.Rcode = dns.RcodeNameError
		}
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp && q.Name == "big.example." {
			m.Truncated, rrs = true, nil
		}
		for _, s := range rrs {
			rr, err := dns.NewRR(s)
			if err != nil {
				t.Error(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m) // the client's failure shows it
	})
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go func() { _ = srv.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = srv.Shutdown() })
	}
	_, port, err = net.SplitHostPort(pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func run(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = Run(t.Context(), &applet.Call{Name: "dig", Args: args, Out: &out, Err: &errs})
	return status, out.String(), errs.String()
}

func TestDig(t *testing.T) {
	port := server(t)
	for _, tc := range []struct {
		args   string
		status int
		stdout string // exactly, unless it starts with ~: then a part
		stderr string
	}{
		{args: "+short web.shop.svc.cluster.local", stdout: "10.96.0.7\n"},
		{args: "web.shop.svc.cluster.local +short A", stdout: "10.96.0.7\n"},
		{args: "+short AAAA web.shop.svc.cluster.local"},
		{args: "+short -t SRV _http._tcp.web.example", stdout: "0 50 80 a.web.example.\n"},
		{args: "+short txt.example TXT", stdout: "\"two words\"\n"},
		{args: "+short -x 10.96.0.7", stdout: "web.shop.svc.cluster.local.\n"},
		{args: "+short big.example", stdout: "10.0.0.1\n10.0.0.2\n"},
		{args: "+short +tcp big.example", stdout: "10.0.0.1\n10.0.0.2\n"},
		{args: "+short +search +domain=svc.cluster.local web.shop", stdout: "10.96.0.7\n"},
		{args: "+short web.shop"},
		{args: "+short big.example txt.example TXT", stdout: "10.0.0.1\n10.0.0.2\n\"two words\"\n"},
		{args: "+noall +answer web.shop.svc.cluster.local", stdout: "web.shop.svc.cluster.local.\t5\tIN\tA\t10.96.0.7\n"},
		{args: "web.shop.svc.cluster.local", stdout: "~status: NOERROR"},
		{args: "web.shop.svc.cluster.local", stdout: "~;; flags: qr aa rd; QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: "},
		{args: "web.shop.svc.cluster.local", stdout: "~;; QUESTION SECTION:\n;web.shop.svc.cluster.local.\t\tIN\tA\n\n;; ANSWER SECTION:\n"},
		{args: "web.shop.svc.cluster.local", stdout: "~;; SERVER: 127.0.0.1#" + port + "(127.0.0.1) (UDP)"},
		{args: "nowhere.example", stdout: "~status: NXDOMAIN"},
		{args: "+nonsense x", status: 1, stderr: "invalid option: +nonsense"},
		{args: "-f names", status: 1, stderr: "unknown option -f"},
		{args: "-x nonsense", status: 1, stderr: "not an address"},
		{args: "-t NOPE x", status: 1, stderr: "unknown type NOPE"},
		{args: "a..b", status: 1, stderr: "not a legal name"},
		{args: "-p x a", status: 1, stderr: "not a port"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			status, stdout, stderr := run(t, append([]string{"@127.0.0.1", "-p", port}, strings.Fields(tc.args)...)...)
			part, isPart := strings.CutPrefix(tc.stdout, "~")
			if status != tc.status || isPart && !strings.Contains(stdout, part) || !isPart && stdout != tc.stdout || !strings.Contains(stderr, tc.stderr) {
				t.Errorf("status %d, stdout %q, want %q; stderr %q", status, stdout, tc.stdout, stderr)
			}
		})
	}
}

func TestNobodyAnswers(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	pc.Close() // nobody listens there now
	status, stdout, _ := run(t, "@127.0.0.1", "-p", port, "+time=1", "+tries=1", "x")
	if status != codeNoReply || !strings.Contains(stdout, "no servers could be reached") {
		t.Errorf("status %d, %q", status, stdout)
	}
}

func TestNames(t *testing.T) {
	conf := &dns.ClientConfig{Search: []string{"shop.svc.cluster.local", "svc.cluster.local."}, Ndots: 2}
	for _, tc := range []struct {
		name   string
		search bool
		want   []string
	}{
		{"web", false, []string{"web."}},
		{"web", true, []string{"web.shop.svc.cluster.local.", "web.svc.cluster.local.", "web."}},
		{"a.b.c", true, []string{"a.b.c.", "a.b.c.shop.svc.cluster.local.", "a.b.c.svc.cluster.local."}},
		{"web.", true, []string{"web."}},
	} {
		if diff := cmp.Diff(tc.want, (&options{conf: conf, search: tc.search}).names(tc.name)); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}
