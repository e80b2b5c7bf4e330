package redirect

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"
)

// options is one run of the command: what to build, and what to do with it.
type options struct {
	config
	dryRun, skipApply, cleanupOnly, validate bool
	probeTimeout                             time.Duration
}

// settings lists the flags that take a value: long name, short name, default, meaning.
// Each is also taken from the environment, under its long name in capitals, as Istio
// binds it.
var settings = []struct{ long, short, value, usage string }{
	{"envoy-port", "p", "15001", "`port` that outbound TCP is redirected to"},
	{"inbound-capture-port", "z", "15006", "`port` that inbound TCP is redirected to"},
	{"inbound-tunnel-port", "e", "15008", "inbound `port` of tunnels, left alone"},
	{"proxy-uid", "u", "", "`users` whose traffic is not redirected: the proxy's (default 1337)"},
	{"proxy-gid", "g", "", "`groups` whose traffic is not redirected (default: as proxy-uid)"},
	{"istio-inbound-interception-mode", "m", "", "REDIRECT; TPROXY is not supported"},
	{"istio-inbound-ports", "b", "", "inbound `ports` to redirect, * for all"},
	{"istio-local-exclude-ports", "d", "", "inbound `ports` left alone when all are redirected"},
	{"istio-exclude-interfaces", "c", "", "`interfaces` left alone"},
	{"istio-service-cidr", "i", "", "outbound address `ranges` to redirect, * for all"},
	{"istio-service-exclude-cidr", "x", "", "outbound address `ranges` left alone"},
	{"istio-outbound-ports", "q", "", "outbound `ports` to redirect whatever the address"},
	{"istio-local-outbound-ports-exclude", "o", "", "outbound `ports` left alone"},
	{"kube-virt-interfaces", "k", "", "`interfaces` whose inbound traffic counts as outbound"},
	{"iptables-probe-port", "", "15002", "`port` that the validation dials"},
	{"probe-timeout", "", "5s", "`duration` that the validation may take"},

	{"istio-inbound-tproxy-mark", "t", "", "for TPROXY only"},
	{"istio-inbound-tproxy-route-table", "r", "", "for TPROXY only"},
	{"network-namespace", "", "", "not supported"},
	{"force-iptables-binary", "", "", "not supported"},

	{"log_output_level", "", "", "ignored"},
	{"log_target", "", "", "ignored"},
	{"log_caller", "", "", "ignored"},
	{"log_stacktrace_level", "", "", "ignored"},
}

// switches are the flags that take no value.
var switches = []struct{ long, usage string }{
	{"dry-run", "print the rules only"},
	{"skip-rule-apply", "apply no rules"},
	{"run-validation", "prove by a connection that redirection works"},
	{"redirect-dns", "redirect DNS for the pod's resolvers to the agent"},
	{"capture-all-dns", "with redirect-dns: for every address"},
	{"drop-invalid", "drop packets that belong to no known connection"},
	{"cleanup-only", "remove the rules"},
	{"cni-mode", "not supported"},
	// Rules are always nf_tables, always replaced as a whole, and always for both
	// families where the pod has both: these change nothing.
	{"dual-stack", "always"},
	{"reconcile", "always"},
	{"force-apply", "always"},
	{"native-nftables", "always"},
	{"iptables-trace-logging", "ignored"},
	{"log_as_json", "ignored"},
}

// further environment variables that switch a flag on.
var switchedBy = map[string]string{"redirect-dns": "ISTIO_META_DNS_CAPTURE", "drop-invalid": "INVALID_DROP"}

// source is where parse takes the environment and the pod's resolvers from.
type source struct {
	env       func(string) (string, bool)
	resolvers func() ([]netip.Addr, error)
}

// flags are the settings as text, by long name.
type flags struct {
	text map[string]*string
	on   map[string]*bool
	source
}

func parse(args []string, stderr io.Writer, src source) (*options, error) {
	fs := flag.NewFlagSet("istio-iptables", flag.ContinueOnError)
	fs.SetOutput(stderr)
	f := flags{map[string]*string{}, map[string]*bool{}, src}
	for _, s := range settings {
		value := s.value
		if v, _ := src.env(variable(s.long)); v != "" {
			value = v
		}
		f.text[s.long] = fs.String(s.long, value, s.usage)
		if s.short != "" {
			fs.StringVar(f.text[s.long], s.short, value, "short for -"+s.long)
		}
	}
	for _, s := range switches {
		f.on[s.long] = fs.Bool(s.long, f.switched(variable(s.long)) || f.switched(switchedBy[s.long]), s.usage)
	}
	fs.BoolVar(f.on["dry-run"], "n", *f.on["dry-run"], "short for -dry-run")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err := f.refuse(); err != nil {
		return nil, err
	}
	return f.options()
}

func variable(flag string) string { return strings.ToUpper(strings.ReplaceAll(flag, "-", "_")) }

func (f flags) switched(name string) bool {
	v, _ := f.env(name)
	on, err := strconv.ParseBool(v)
	return err == nil && on
}

// refuse names what is asked for and not supported.
func (f flags) refuse() error {
	var errs []error
	for _, name := range []string{"network-namespace", "force-iptables-binary"} {
		if v := *f.text[name]; v != "" {
			errs = append(errs, fmt.Errorf("--%s %s is not supported", name, v))
		}
	}
	if *f.on["cni-mode"] {
		errs = append(errs, errors.New("--cni-mode is not supported"))
	}
	switch m := *f.text["istio-inbound-interception-mode"]; m {
	case "", "REDIRECT":
	default:
		errs = append(errs, fmt.Errorf("--istio-inbound-interception-mode %s is not supported, only REDIRECT", m))
	}
	return errors.Join(errs...)
}

func (f flags) options() (*options, error) {
	o := &options{
		dryRun: *f.on["dry-run"], skipApply: *f.on["skip-rule-apply"], cleanupOnly: *f.on["cleanup-only"],
		validate: *f.on["run-validation"],
	}
	uid := *f.text["proxy-uid"]
	if uid == "" {
		uid = "1337"
	}
	gid := *f.text["proxy-gid"]
	if gid == "" {
		gid = uid
	}
	errs := []error{
		number(&o.outboundPort, "envoy-port", *f.text["envoy-port"], 16),
		number(&o.inboundPort, "inbound-capture-port", *f.text["inbound-capture-port"], 16),
		number(&o.tunnelPort, "inbound-tunnel-port", *f.text["inbound-tunnel-port"], 16),
		number(&o.probePort, "iptables-probe-port", *f.text["iptables-probe-port"], 16),
		numbers(&o.uids, "proxy-uid", uid, 32),
		numbers(&o.gids, "proxy-gid", gid, 32),
		f.ports(&o.excludeInbound, "istio-local-exclude-ports"),
		f.ports(&o.includePorts, "istio-outbound-ports"),
		f.ports(&o.excludeOutbound, "istio-local-outbound-ports-exclude"),
		prefixes(&o.includes, "istio-service-cidr", *f.text["istio-service-cidr"]),
		prefixes(&o.excludes, "istio-service-exclude-cidr", *f.text["istio-service-exclude-cidr"]),
		f.groups(&o.groups),
		f.loopback(&o.loopback4),
	}
	if o.inboundPorts.all = *f.text["istio-inbound-ports"] == "*"; !o.inboundPorts.all {
		errs = append(errs, f.ports(&o.inboundPorts.ports, "istio-inbound-ports"))
	}
	if o.excludes.all {
		errs = append(errs, errors.New("--istio-service-exclude-cidr *: excluding every address is not supported"))
	}
	var err error
	if o.probeTimeout, err = time.ParseDuration(*f.text["probe-timeout"]); err != nil {
		errs = append(errs, fmt.Errorf("--probe-timeout: %w", err))
	}
	o.excludeInterfaces = split(*f.text["istio-exclude-interfaces"])
	o.virtualInterfaces = split(*f.text["kube-virt-interfaces"])
	o.dropInvalid = *f.on["drop-invalid"]
	o.dns = dnsCapture{on: *f.on["redirect-dns"], all: *f.on["capture-all-dns"]}
	if o.dns.on && !o.dns.all && !o.cleanupOnly {
		if o.dns.servers, err = f.resolvers(); err != nil {
			errs = append(errs, fmt.Errorf("--redirect-dns: %w", err))
		}
	}
	return o, errors.Join(errs...)
}

// groups reads which groups are redirected, which Istio has in the environment only.
func (f flags) groups(into *groupSet) error {
	const include, exclude = "ISTIO_OUTBOUND_OWNER_GROUPS", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"
	name := include
	list, set := f.env(include)
	into.only = set && list != "*"
	if !into.only {
		name = exclude
		list, _ = f.env(exclude)
	}
	for _, s := range split(list) {
		if g, err := user.LookupGroup(s); err == nil {
			s = g.Gid
		}
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return fmt.Errorf("%s: %q is no group", name, s)
		}
		into.groups = append(into.groups, uint32(n))
	}
	return nil
}

func (f flags) loopback(into *netip.Prefix) error {
	const name = "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"
	text, _ := f.env(name)
	if text == "" {
		text = "127.0.0.1/32"
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !p.Addr().Is4() || !p.Addr().IsLoopback() || p.Bits() < 8 {
		return fmt.Errorf("%s: %s is no IPv4 loopback range", name, p)
	}
	*into = p.Masked()
	return nil
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

func (f flags) ports(into *[]uint16, name string) error {
	return numbers(into, name, *f.text[name], 16)
}

func number[T uint16 | uint32](into *T, name, text string, bits int) error {
	n, err := strconv.ParseUint(text, 10, bits)
	if err != nil {
		return fmt.Errorf("--%s: %q is no number of %d bits", name, text, bits)
	}
	*into = T(n)
	return nil
}

func numbers[T uint16 | uint32](into *[]T, name, list string, bits int) error {
	for _, s := range split(list) {
		var n T
		if err := number(&n, name, s, bits); err != nil {
			return err
		}
		*into = append(*into, n)
	}
	return nil
}

func prefixes(into *prefixSet, name, list string) error {
	for _, s := range split(list) {
		if s == "*" {
			into.all = true
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("--%s: %w", name, err)
		}
		into.prefixes = append(into.prefixes, p)
	}
	return nil
}

func osSource() source {
	return source{env: os.LookupEnv, resolvers: func() ([]netip.Addr, error) { return readResolvers("/etc/resolv.conf") }}
}
