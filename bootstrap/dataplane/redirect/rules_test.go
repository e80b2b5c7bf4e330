package redirect

import (
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// template is what Istio's injection template gives to istio-init.
var template = []string{
	"-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020",
	"--log_output_level=default:info",
}

func sourceOf(env map[string]string, resolvers ...string) source {
	return source{
		env: func(k string) (string, bool) { v, ok := env[k]; return v, ok },
		resolvers: func() ([]netip.Addr, error) {
			var out []netip.Addr
			for _, r := range resolvers {
				out = append(out, netip.MustParseAddr(r))
			}
			return out, nil
		},
	}
}

func parsed(t *testing.T, src source, args ...string) *options {
	t.Helper()
	o, err := parse(args, io.Discard, src)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// chainText gives a chain's rules, a line each.
func chainText(t *testing.T, o *options, f family, name string) []string {
	t.Helper()
	for _, c := range ruleset(&o.config, f).chains {
		if c.name == name {
			var out []string
			for _, r := range c.rules {
				out = append(out, r.String())
			}
			return out
		}
	}
	return nil
}

func TestTemplateRules(t *testing.T) {
	want := `table ip istio_redirect {
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		meta l4proto tcp th dport 15008 accept
		meta l4proto tcp th dport 15090 accept
		meta l4proto tcp th dport 15021 accept
		meta l4proto tcp th dport 15020 accept
		meta l4proto tcp redirect to :15006
	}

	chain output {
		type nat hook output priority -100; policy accept;
		oifname "lo" ip saddr 127.0.0.6/32 accept
		oifname "lo" ip daddr != 127.0.0.1/32 meta l4proto tcp th dport != 15008 meta skuid 1337 redirect to :15006
		oifname "lo" meta skuid != 1337 accept
		meta skuid 1337 accept
		oifname "lo" ip daddr != 127.0.0.1/32 meta l4proto tcp th dport != 15008 meta skgid 1337 redirect to :15006
		oifname "lo" meta skgid != 1337 accept
		meta skgid 1337 accept
		ip daddr 127.0.0.1/32 accept
		meta l4proto tcp redirect to :15001
	}
}
`
	o := parsed(t, sourceOf(nil), template...)
	if diff := cmp.Diff(want, ruleset(&o.config, ipv4).String()); diff != "" {
		t.Errorf("IPv4 rules (-want +got):\n%s", diff)
	}
	want = strings.NewReplacer("table ip ", "table ip6 ", " ip ", " ip6 ", "\tip ", "\tip6 ", "127.0.0.6/32", "::6/128", "127.0.0.1/32", "::1/128").Replace(want)
	if diff := cmp.Diff(want, ruleset(&o.config, ipv6).String()); diff != "" {
		t.Errorf("IPv6 rules (-want +got):\n%s", diff)
	}
}

func TestRules(t *testing.T) {
	proxy := []string{ // what is always in the output chain, without a proxy's group of its own
		`oifname "lo" ip saddr 127.0.0.6/32 accept`,
		`oifname "lo" ip daddr != 127.0.0.1/32 meta l4proto tcp th dport != 15008 meta skuid 9 redirect to :15006`,
		`oifname "lo" meta skuid != 9 accept`,
		`meta skuid 9 accept`,
		`oifname "lo" ip daddr != 127.0.0.1/32 meta l4proto tcp th dport != 15008 meta skgid 8 redirect to :15006`,
		`oifname "lo" meta skgid != 8 accept`,
		`meta skgid 8 accept`,
	}
	join := func(parts ...[]string) []string {
		var out []string
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	local := []string{`ip daddr 127.0.0.1/32 accept`}
	for _, c := range []struct {
		name              string
		args              []string
		env               map[string]string
		inbound, outbound []string
	}{
		{name: "nothing asked for", outbound: join(proxy, local)},
		{
			name: "some inbound ports", args: []string{"-b", "80,443", "-d", "1"}, outbound: join(proxy, local),
			inbound: []string{
				`meta l4proto tcp th dport 15008 accept`,
				`meta l4proto tcp th dport 80 redirect to :15006`, `meta l4proto tcp th dport 443 redirect to :15006`,
			},
		},
		{
			name: "ports of its own", args: []string{"-z", "6", "-p", "1", "-e", "8", "-b", "*", "-i", "*"},
			inbound: []string{`meta l4proto tcp th dport 8 accept`, `meta l4proto tcp redirect to :6`},
			outbound: join([]string{
				proxy[0], strings.NewReplacer("15008", "8", "15006", "6").Replace(proxy[1]), proxy[2], proxy[3],
				strings.NewReplacer("15008", "8", "15006", "6").Replace(proxy[4]), proxy[5], proxy[6],
			}, local, []string{`meta l4proto tcp redirect to :1`}),
		},
		{
			name: "ranges and ports", args: []string{"-i", "10.0.0.0/8,fd00::/8", "-x", "10.1.0.0/16,fd01::/16", "-q", "81,82", "-o", "83"},
			outbound: join(
				[]string{`meta l4proto tcp th dport 83 accept`, `meta l4proto udp th dport 83 accept`}, proxy, local,
				[]string{
					`ip daddr 10.1.0.0/16 accept`,
					`meta l4proto tcp th dport 81 redirect to :15001`, `meta l4proto tcp th dport 82 redirect to :15001`,
					`ip daddr 10.0.0.0/8 meta l4proto tcp redirect to :15001`,
				}),
		},
		{
			name: "a loopback range", args: []string{"-i", "127.0.0.0/8"},
			outbound: join(proxy[:2], proxy[3:5], proxy[6:], local, []string{`ip daddr 127.0.0.0/8 meta l4proto tcp redirect to :15001`}),
		},
		{
			name: "interfaces", args: []string{"-c", "eth1,net0", "-b", "*"},
			inbound: []string{
				`iifname "eth1" accept`, `iifname "net0" accept`,
				`meta l4proto tcp th dport 15008 accept`, `meta l4proto tcp redirect to :15006`,
			},
			outbound: join([]string{`oifname "eth1" accept`, `oifname "net0" accept`}, proxy, local),
		},
		{
			name: "virtual machines", args: []string{"-k", "vm0", "-i", "10.0.0.0/8", "-c", "eth1"},
			inbound: []string{
				`iifname "vm0" ip daddr 10.0.0.0/8 meta l4proto tcp redirect to :15001`, `iifname "vm0" accept`, `iifname "eth1" accept`,
			},
			outbound: join([]string{`oifname "eth1" accept`}, proxy, local, []string{`ip daddr 10.0.0.0/8 meta l4proto tcp redirect to :15001`}),
		},
		{
			name: "groups left alone", env: map[string]string{"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "0,77"},
			outbound: join(proxy, []string{`meta skgid 0 accept`, `meta skgid 77 accept`}, local),
		},
		{
			name: "some groups only", env: map[string]string{"ISTIO_OUTBOUND_OWNER_GROUPS": "5,6", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "7"},
			outbound: join(proxy, []string{`meta skgid != 5 meta skgid != 6 accept`}, local),
		},
		{
			name: "no group", env: map[string]string{"ISTIO_OUTBOUND_OWNER_GROUPS": ""},
			outbound: join(proxy, []string{`accept`}, local),
		},
		{
			name: "a wider loopback", env: map[string]string{"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.1/8"},
			outbound: join([]string{
				proxy[0], strings.Replace(proxy[1], "127.0.0.1/32", "127.0.0.0/8", 1), proxy[2], proxy[3],
				strings.Replace(proxy[4], "127.0.0.1/32", "127.0.0.0/8", 1), proxy[5], proxy[6],
			}, []string{`ip daddr 127.0.0.0/8 accept`}),
		},
		{
			name: "from the environment", env: map[string]string{"ISTIO_INBOUND_PORTS": "80", "ISTIO_SERVICE_CIDR": "*", "ENVOY_PORT": "7"},
			inbound:  []string{`meta l4proto tcp th dport 15008 accept`, `meta l4proto tcp th dport 80 redirect to :15006`},
			outbound: join(proxy, local, []string{`meta l4proto tcp redirect to :7`}),
		},
	} {
		o := parsed(t, sourceOf(c.env), append([]string{"-u", "9", "-g", "8"}, c.args...)...)
		if diff := cmp.Diff(c.inbound, chainText(t, o, ipv4, "prerouting")); diff != "" {
			t.Errorf("%s: inbound (-want +got):\n%s", c.name, diff)
		}
		if diff := cmp.Diff(c.outbound, chainText(t, o, ipv4, "output")); diff != "" {
			t.Errorf("%s: outbound (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestGroupDefaultsToUser(t *testing.T) {
	o := parsed(t, sourceOf(nil), "-u", "5,6")
	if diff := cmp.Diff([]owner{{5, false}, {6, false}, {5, true}, {6, true}}, o.owners(), cmp.AllowUnexported(owner{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if o := parsed(t, sourceOf(nil)); o.uids[0] != 1337 || o.gids[0] != 1337 {
		t.Errorf("by default: got %v %v, want 1337", o.uids, o.gids)
	}
}

func TestDNSRules(t *testing.T) {
	contains := func(rules []string, want ...string) {
		t.Helper()
		all := strings.Join(rules, "\n")
		for _, w := range want {
			if !strings.Contains(all, w) {
				t.Errorf("no rule %q in\n%s", w, all)
			}
		}
	}
	for _, on := range []source{
		sourceOf(map[string]string{"ISTIO_META_DNS_CAPTURE": "true"}, "10.96.0.10", "fd00::a"),
		sourceOf(map[string]string{"REDIRECT_DNS": "1"}, "10.96.0.10", "fd00::a"),
	} {
		o := parsed(t, on, template...)
		contains(chainText(t, o, ipv4, "output"),
			`th dport != 15008 th dport != 53 meta skuid 1337 redirect to :15006`,
			`th dport != 15008 meta skgid 1337 redirect to :15006`,
			`oifname "lo" meta l4proto tcp th dport != 53 meta skuid != 1337 accept`,
			`ip daddr 10.96.0.10/32 meta l4proto tcp th dport 53 redirect to :15053`,
			`ip daddr 10.96.0.10/32 meta l4proto udp th dport 53 redirect to :15053`)
		contains(chainText(t, o, ipv6, "output"), `ip6 daddr fd00::a/128 meta l4proto udp th dport 53 redirect to :15053`)
		want := []string{
			`meta l4proto udp th dport 53 meta skuid 1337 ct zone set 1 accept`,
			`meta l4proto udp th sport 15053 meta skuid 1337 ct zone set 2 accept`,
			`meta l4proto udp th dport 53 meta skgid 1337 ct zone set 1 accept`,
			`meta l4proto udp th sport 15053 meta skgid 1337 ct zone set 2 accept`,
			`ip daddr 10.96.0.10/32 meta l4proto udp th dport 53 ct zone set 2 accept`,
		}
		if diff := cmp.Diff(want, chainText(t, o, ipv4, "dns-output")); diff != "" {
			t.Errorf("zones (-want +got):\n%s", diff)
		}
		contains(chainText(t, o, ipv4, "dns-prerouting"), `ip saddr 10.96.0.10/32 meta l4proto udp th sport 53 ct zone set 1 accept`)
	}
	all := parsed(t, sourceOf(nil, "192.0.2.1"), append(template, "--redirect-dns", "--capture-all-dns")...)
	if got := chainText(t, all, ipv6, "output"); !strings.Contains("\n"+strings.Join(got, "\n"), "\nmeta l4proto udp th dport 53 redirect to :15053") {
		t.Errorf("no rule for every address in %q", got)
	}
	v4 := parsed(t, sourceOf(nil, "192.0.2.1"), append(template, "--redirect-dns")...)
	if got := ruleset(&v4.config, ipv6).String(); strings.Contains(got, "15053") {
		t.Errorf("DNS over IPv6 is redirected without an IPv6 resolver:\n%s", got)
	}
}

func TestDropInvalid(t *testing.T) {
	for _, o := range []*options{
		parsed(t, sourceOf(nil), "--drop-invalid"),
		parsed(t, sourceOf(map[string]string{"INVALID_DROP": "true"})),
		parsed(t, sourceOf(map[string]string{"DROP_INVALID": "true"})),
	} {
		if diff := cmp.Diff([]string{"ct state invalid drop"}, chainText(t, o, ipv4, "drop-invalid")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if got := chainText(t, parsed(t, sourceOf(nil)), ipv4, "drop-invalid"); got != nil {
		t.Errorf("dropped unasked: %q", got)
	}
}

func TestRefusedByName(t *testing.T) {
	for _, c := range []struct {
		want string
		args []string
		env  map[string]string
	}{
		{"istio-inbound-interception-mode TPROXY", []string{"-m", "TPROXY"}, nil},
		{"istio-inbound-interception-mode NONE", nil, map[string]string{"ISTIO_INBOUND_INTERCEPTION_MODE": "NONE"}},
		{"network-namespace /x", []string{"--network-namespace", "/x"}, nil},
		{"cni-mode", []string{"--cni-mode"}, nil},
		{"force-iptables-binary nft", []string{"--force-iptables-binary=nft"}, nil},
		{"no-such-flag", []string{"--no-such-flag"}, nil},
		{`unexpected argument "extra"`, []string{"extra"}, nil},
		{"envoy-port", []string{"-p", "70000"}, nil},
		{"istio-inbound-ports", []string{"-b", "80,x"}, nil},
		{"istio-local-exclude-ports", []string{"-d", "-1"}, nil},
		{"istio-service-cidr", []string{"-i", "10.0.0.1"}, nil},
		{"istio-service-exclude-cidr *", []string{"-x", "*"}, nil},
		{"proxy-uid", []string{"-u", "istio-proxy"}, nil},
		{"probe-timeout", []string{"--probe-timeout", "soon"}, nil},
		{`ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE: "no-such-group"`, nil, map[string]string{"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "no-such-group"}},
		{"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", nil, map[string]string{"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "10.0.0.0/8"}},
	} {
		if _, err := parse(c.args, io.Discard, sourceOf(c.env)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %v: got error %v, want %q", c.args, c.env, err, c.want)
		}
	}
}

func TestEveryFlagOfIstiosTemplateIsTaken(t *testing.T) {
	// injection-template.yaml, with every condition met.
	args := append([]string{}, template...)
	args = append(args,
		"-q", "1", "-o", "2", "-k", "net1", "-c", "eth1", "--log_as_json", "--run-validation", "--skip-rule-apply", "--force-apply", "--native-nftables")
	o := parsed(t, sourceOf(nil), args...)
	if !o.validate || !o.skipApply {
		t.Errorf("got %+v", o)
	}
}

func TestReadResolvers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# a comment\nsearch a.svc\nnameserver 10.96.0.10\nnameserver\tfe80::1%eth0\noptions ndots:5\nnameserver 192.0.2.1")
	got, err := readResolvers(file)
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("192.0.2.1")}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	write("nameserver dns.example\n")
	if _, err := readResolvers(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got error %v, want one that names the file", err)
	}
	if _, err := readResolvers(file + ".none"); err == nil {
		t.Error("a file that is not there is read")
	}
}
