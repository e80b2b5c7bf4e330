// Package dig is the program dig, as far as the lessons use it: it asks a DNS server and
// shows the answer in dig's form. It knows /etc/resolv.conf, UDP and TCP; no zone
// transfers, no batch files, no DNSSEC validation.
package dig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// dig's exit codes.
const (
	codeUsage    = 1
	codeNoReply  = 9
	codeInternal = 10
)

// Run is the program.
func Run(ctx context.Context, call *applet.Call) int {
	o, err := parse(call)
	if err != nil {
		fmt.Fprintf(call.Err, "dig: %v\n", err)
		return codeUsage
	}
	if o.showVersion {
		fmt.Fprintln(call.Out, "DiG (ropes)")
		return applet.OK
	}
	servers, err := o.servers(ctx)
	if err != nil {
		fmt.Fprintf(call.Err, "dig: %v\n", err)
		return codeInternal
	}
	status := applet.OK
	for _, q := range o.queries {
		r, err := o.ask(ctx, servers, q)
		if ctx.Err() != nil {
			return applet.Ended(ctx)
		}
		if err != nil {
			fmt.Fprintf(call.Out, ";; %v\n;; no servers could be reached\n", err)
			status = codeNoReply
			continue
		}
		o.print(call.Out, r)
	}
	return status
}

// reply is an answer, and how it was had.
type reply struct {
	msg    *dns.Msg
	server string
	took   time.Duration
	tcp    bool
}

// servers are those to ask, in order, each as host:port.
func (o *options) servers(ctx context.Context) ([]string, error) {
	if o.server == "" {
		var out []string
		for _, s := range o.conf.Servers {
			out = append(out, net.JoinHostPort(s, o.port))
		}
		if len(out) == 0 {
			return nil, errors.New("no server named, and none in " + resolvConf)
		}
		return out, nil
	}
	if net.ParseIP(o.server) != nil {
		return []string{net.JoinHostPort(o.server, o.port)}, nil
	}
	ips, err := net.DefaultResolver.LookupHost(ctx, o.server)
	if err != nil {
		return nil, fmt.Errorf("couldn't get address for '%s': %w", o.server, err)
	}
	return []string{net.JoinHostPort(ips[0], o.port)}, nil
}

// ask puts a query to the servers, name by name where the search list is used, until one
// name exists.
func (o *options) ask(ctx context.Context, servers []string, q query) (r reply, err error) {
	for _, name := range o.names(q.name) {
		if r, err = o.askName(ctx, servers, name, q); err != nil {
			return r, err
		}
		if r.msg.Rcode == dns.RcodeSuccess && len(r.msg.Answer) > 0 {
			break
		}
	}
	return r, nil
}

// names are the full names that a name stands for.
func (o *options) names(name string) []string {
	full := dns.Fqdn(name)
	if !o.search || full == name {
		return []string{full}
	}
	var searched []string
	for _, s := range o.conf.Search {
		searched = append(searched, dns.Fqdn(name+"."+strings.TrimSuffix(s, ".")))
	}
	if strings.Count(name, ".") >= o.conf.Ndots {
		return append([]string{full}, searched...)
	}
	return append(searched, full)
}

func (o *options) askName(ctx context.Context, servers []string, name string, q query) (reply, error) {
	m := new(dns.Msg)
	m.SetQuestion(name, q.qtype)
	m.Question[0].Qclass = q.class
	m.RecursionDesired = o.recurse
	if o.edns {
		m.SetEdns0(1232, o.dnssec)
	}
	var last error
	for range o.tries {
		for _, server := range servers {
			r, err := o.exchange(ctx, m, server)
			if err == nil {
				return r, nil
			}
			if ctx.Err() != nil {
				return reply{}, context.Cause(ctx)
			}
			last = fmt.Errorf("communications error to %s: %w", hash(server), err)
		}
	}
	return reply{}, last
}

// exchange asks by UDP, and by TCP where that is wanted or the answer was cut short.
func (o *options) exchange(ctx context.Context, m *dns.Msg, server string) (reply, error) {
	network := "udp"
	if o.tcp {
		network = "tcp"
	}
	c := dns.Client{Net: network + o.family, Timeout: o.timeout}
	msg, took, err := c.ExchangeContext(ctx, m, server)
	if err == nil && msg.Truncated && !o.tcp {
		c.Net = "tcp" + o.family
		network = "tcp"
		msg, took, err = c.ExchangeContext(ctx, m, server)
	}
	return reply{msg, server, took, network == "tcp"}, err
}

// hash writes host:port as dig does.
func hash(server string) string {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return server
	}
	return host + "#" + port
}

// typeOf reads a record type: a name such as A, or TYPE65.
func typeOf(word string) (uint16, bool) {
	word = strings.ToUpper(word)
	if t, ok := dns.StringToType[word]; ok {
		return t, true
	}
	if n, ok := strings.CutPrefix(word, "TYPE"); ok {
		if t, err := strconv.ParseUint(n, 10, 16); err == nil {
			return uint16(t), true
		}
	}
	return 0, false
}
