// Package redirect sets up a pod's traffic redirection as istio-init does, by nf_tables
// through netlink: inbound TCP goes to the proxy's inbound listener, outbound TCP to its
// outbound one, DNS to the agent where that is asked for, and what the proxy itself
// sends is let through. It knows the flags and variables of Istio's istio-iptables and
// the kernel; it knows nothing of the proxy.
//
// The rules mean what those of istio.io/istio's tools/istio-iptables/pkg/capture mean.
// What is not supported is refused by its flag's name: TPROXY, the modes of the CNI
// plugin that act on another namespace, and the choice of an iptables binary.
package redirect

import (
	"context"
	"fmt"
	"io"
)

// Main runs istio-iptables with its own flags (without the program's name): it applies
// the rules to the network namespace it runs in, replacing those of an earlier run at
// one stroke, and prints them in nft's syntax to stdout. With --cleanup-only it removes
// them, with --run-validation it then proves by a connection that they work. Remarks
// and usage go to stderr.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr, osSource())
	if err != nil {
		return err
	}
	if o.cleanupOnly {
		return remove()
	}
	if o.dns.on && !o.dns.all && len(o.dns.servers) == 0 {
		o.dns.on = false
		if _, err := fmt.Fprintln(stderr, "redirect-dns: /etc/resolv.conf names no server, so DNS is not redirected"); err != nil {
			return err
		}
	}
	families := []family{ipv4}
	if hasIPv6() {
		families = append(families, ipv6)
	}
	var tables []table
	for _, f := range families {
		tables = append(tables, ruleset(&o.config, f))
	}
	if !o.skipApply {
		for _, t := range tables {
			if _, err := fmt.Fprint(stdout, t); err != nil {
				return err
			}
		}
	}
	if !o.dryRun && !o.skipApply {
		if err := apply(tables); err != nil {
			return err
		}
	}
	if o.validate {
		return validate(ctx, &o.config, o.probeTimeout)
	}
	return nil
}
