// Package coredns is the cluster's DNS server: CoreDNS with the plugins that a
// cluster's Corefile and the labs need, and no cloud vendor's.
// It knows no Corefile; kubeadm's add-on brings that as a ConfigMap. A Corefile that
// names a plugin which is not linked in is refused by CoreDNS with the plugin's name.
package coredns

import (
	"os"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	// Each of these registers the plugin of its name.
	_ "github.com/coredns/coredns/plugin/any"
	_ "github.com/coredns/coredns/plugin/autopath"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/bufsize"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/cancel"
	_ "github.com/coredns/coredns/plugin/debug"
	_ "github.com/coredns/coredns/plugin/dns64"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/header"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/local"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metadata"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/minimal"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/root"
	_ "github.com/coredns/coredns/plugin/template"
	_ "github.com/coredns/coredns/plugin/timeouts"
	_ "github.com/coredns/coredns/plugin/transfer"
	_ "github.com/coredns/coredns/plugin/whoami"
)

// directives are the names of the plugins above as a Corefile writes them, in the
// order in which a query passes them. CoreDNS documents that order; it is part of
// what a Corefile means.
var directives = []string{
	"root",
	"metadata",
	"cancel",
	"timeouts",
	"reload",
	"bufsize",
	"bind",
	"debug",
	"ready",
	"health",
	"prometheus",
	"errors",
	"log",
	"local",
	"dns64",
	"any",
	"loadbalance",
	"cache",
	"rewrite",
	"header",
	"autopath",
	"minimal",
	"template",
	"transfer",
	"hosts",
	"kubernetes",
	"file",
	"loop",
	"forward",
	"whoami",
}

// Main runs CoreDNS until it is told to stop by a signal. args are its own flags, as
// in `-conf /etc/coredns/Corefile`. CoreDNS reads them from os.Args, which Main
// therefore sets, and ends the process itself: with status 1 where it cannot start.
func Main(args []string) {
	dnsserver.Directives = directives
	os.Args = append([]string{"coredns"}, args...)
	coremain.Run()
}
