package redirect

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

const (
	dnsPort      = 53
	agentDNSPort = 15053 // where pilot-agent's DNS proxy listens
)

// config is what the flags ask for.
type config struct {
	outboundPort, inboundPort, tunnelPort uint16
	uids, gids                            []uint32
	inboundPorts                          portSet
	excludeInbound                        []uint16
	includePorts, excludeOutbound         []uint16
	includes, excludes                    prefixSet
	excludeInterfaces                     []string
	includeGroups, excludeGroups          []uint32 // no includeGroups: every group
	dns, dryRun, skipApply, cleanupOnly   bool
}

// owners are the identities of the proxy.
func (c *config) owners() []owner {
	var out []owner
	for _, id := range c.uids {
		out = append(out, owner{id: id})
	}
	for _, id := range c.gids {
		out = append(out, owner{id: id, group: true})
	}
	return out
}

// portSet is all ports, or some.
type portSet struct {
	all   bool
	ports []uint16
}

func (s portSet) none() bool { return !s.all && len(s.ports) == 0 }

// prefixSet is all addresses, or some.
type prefixSet struct {
	all      bool
	prefixes []netip.Prefix
}

func (s prefixSet) of(f family) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s.prefixes {
		if f.holds(p) {
			out = append(out, p)
		}
	}
	return out
}

// loopback tells whether the set names a loopback address outright.
func (s prefixSet) loopback(f family) bool {
	for _, p := range s.of(f) {
		if p.Addr().IsLoopback() {
			return true
		}
	}
	return false
}

// flags are the settings as text, by the long name of istio-iptables' flag.
type flags map[string]*string

// settings lists the flags: long name, short name, default. A setting is also taken
// from the environment, under its long name in capitals, as Istio binds it.
var settings = []struct{ long, short, value string }{
	{"envoy-port", "p", "15001"},
	{"inbound-capture-port", "z", "15006"},
	{"inbound-tunnel-port", "e", "15008"},
	{"proxy-uid", "u", ""},
	{"proxy-gid", "g", ""},
	{"istio-inbound-interception-mode", "m", ""},
	{"istio-inbound-ports", "b", ""},
	{"istio-local-exclude-ports", "d", ""},
	{"istio-exclude-interfaces", "c", ""},
	{"istio-service-cidr", "i", ""},
	{"istio-service-exclude-cidr", "x", ""},
	{"istio-outbound-ports", "q", ""},
	{"istio-local-outbound-ports-exclude", "o", ""},
	{"kube-virt-interfaces", "k", ""},
	{"istio-inbound-tproxy-mark", "t", ""},
	{"istio-inbound-tproxy-route-table", "r", ""},
	{"iptables-probe-port", "", ""},
	{"probe-timeout", "", ""},
	{"network-namespace", "", ""},
	{"force-iptables-binary", "", ""},
	{"log_output_level", "", ""},
	{"log_target", "", ""},
	{"log_caller", "", ""},
	{"log_stacktrace_level", "", ""},
}

// switches are the flags that take no value. Rules are always nf_tables and always
// replaced as a whole, so the flags that ask for this change nothing.
var switches = []string{
	"dry-run", "skip-rule-apply", "run-validation", "redirect-dns", "drop-invalid", "dual-stack", "capture-all-dns",
	"cni-mode", "reconcile", "cleanup-only", "force-apply", "native-nftables", "log_as_json", "iptables-trace-logging",
}

func environment(name string) string {
	return os.Getenv(strings.ToUpper(strings.ReplaceAll(name, "-", "_")))
}

func parse(args []string, stderr io.Writer) (*config, error) {
	fs := flag.NewFlagSet("istio-iptables", flag.ContinueOnError)
	fs.SetOutput(stderr)
	text := flags{}
	for _, s := range settings {
		value := s.value
		if env := environment(s.long); env != "" {
			value = env
		}
		v := &value
		fs.StringVar(v, s.long, value, "")
		if s.short != "" {
			fs.StringVar(v, s.short, value, "")
		}
		text[s.long] = v
	}
	on := map[string]*bool{}
	for _, s := range switches {
		on[s] = fs.Bool(s, environment(s) == "true", "")
	}
	fs.BoolVar(on["dry-run"], "n", *on["dry-run"], "")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err := refuse(text, on); err != nil {
		return nil, err
	}
	return text.config(on)
}

// refuse names what is asked for and not supported.
func refuse(text flags, on map[string]*bool) error {
	var errs []error
	for _, name := range []string{"kube-virt-interfaces", "network-namespace", "force-iptables-binary"} {
		if v := *text[name]; v != "" {
			errs = append(errs, fmt.Errorf("--%s %s is not supported", name, v))
		}
	}
	for _, name := range []string{"run-validation", "cni-mode", "drop-invalid"} {
		if *on[name] {
			errs = append(errs, fmt.Errorf("--%s is not supported", name))
		}
	}
	if os.Getenv("INVALID_DROP") == "true" {
		errs = append(errs, errors.New("INVALID_DROP is not supported"))
	}
	switch m := *text["istio-inbound-interception-mode"]; m {
	case "", "REDIRECT":
	default:
		errs = append(errs, fmt.Errorf("--istio-inbound-interception-mode %s is not supported, only REDIRECT", m))
	}
	return errors.Join(errs...)
}

func (f flags) config(on map[string]*bool) (*config, error) {
	c := &config{dryRun: *on["dry-run"], skipApply: *on["skip-rule-apply"], cleanupOnly: *on["cleanup-only"]}
	c.dns = *on["redirect-dns"] || os.Getenv("ISTIO_META_DNS_CAPTURE") == "true"
	var errs []error
	port := func(into *uint16, name string) { errs = append(errs, number(into, name, *f[name], 16)) }
	port(&c.outboundPort, "envoy-port")
	port(&c.inboundPort, "inbound-capture-port")
	port(&c.tunnelPort, "inbound-tunnel-port")
	uid := *f["proxy-uid"]
	if uid == "" {
		uid = "1337"
	}
	gid := *f["proxy-gid"]
	if gid == "" {
		gid = uid
	}
	errs = append(errs,
		numbers(&c.uids, "proxy-uid", uid, 32),
		numbers(&c.gids, "proxy-gid", gid, 32),
		numbers(&c.excludeInbound, "istio-local-exclude-ports", *f["istio-local-exclude-ports"], 16),
		numbers(&c.includePorts, "istio-outbound-ports", *f["istio-outbound-ports"], 16),
		numbers(&c.excludeOutbound, "istio-local-outbound-ports-exclude", *f["istio-local-outbound-ports-exclude"], 16),
		prefixes(&c.includes, "istio-service-cidr", *f["istio-service-cidr"]),
		prefixes(&c.excludes, "istio-service-exclude-cidr", *f["istio-service-exclude-cidr"]),
		numbers(&c.excludeGroups, "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", os.Getenv("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"), 32),
	)
	if groups := os.Getenv("ISTIO_OUTBOUND_OWNER_GROUPS"); groups != "*" {
		errs = append(errs, numbers(&c.includeGroups, "ISTIO_OUTBOUND_OWNER_GROUPS", groups, 32))
	}
	if b := *f["istio-inbound-ports"]; b == "*" {
		c.inboundPorts.all = true
	} else {
		errs = append(errs, numbers(&c.inboundPorts.ports, "istio-inbound-ports", b, 16))
	}
	if c.excludes.all {
		errs = append(errs, errors.New("--istio-service-exclude-cidr *: excluding every address is not supported"))
	}
	c.excludeInterfaces = split(*f["istio-exclude-interfaces"])
	return c, errors.Join(errs...)
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
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
