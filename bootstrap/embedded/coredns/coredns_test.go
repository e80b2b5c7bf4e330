package coredns

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/miekg/dns"
)

func TestEveryDirectiveIsLinkedInAndInOrder(t *testing.T) {
	upstream := slices.Clone(dnsserver.Directives)
	last := -1
	for _, name := range directives {
		if _, err := caddy.DirectiveAction("dns", name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		at := slices.Index(upstream, name)
		if at < last {
			t.Errorf("%s comes earlier in CoreDNS's own order", name)
		}
		last = at
	}
}

// start runs CoreDNS with the Corefile on a free UDP port and returns its address.
func start(t *testing.T, corefile string) string {
	t.Helper()
	old, quiet := dnsserver.Directives, dnsserver.Quiet
	dnsserver.Directives, dnsserver.Quiet = directives, true
	t.Cleanup(func() { dnsserver.Directives, dnsserver.Quiet = old, quiet })
	i, err := caddy.Start(caddy.CaddyfileInput{Contents: []byte(corefile), ServerTypeName: "dns"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, err := range i.ShutdownCallbacks() {
			t.Error(err)
		}
		if err := i.Stop(); err != nil {
			t.Error(err)
		}
	})
	for _, s := range i.Servers() {
		if a := s.LocalAddr(); a != nil {
			return a.String()
		}
	}
	t.Fatal("no server")
	return ""
}

func ask(t *testing.T, addr, name string) *dns.Msg {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	c := dns.Client{Net: "udp"}
	answer, _, err := c.Exchange(m, net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestServes(t *testing.T) {
	addr := start(t, `.:0 {
    bind 127.0.0.1
    errors
    rewrite name exact short.test long.test
    hosts {
        192.0.2.7 long.test
        fallthrough
    }
    template IN A example.test {
        answer "{{ .Name }} 60 IN A 192.0.2.9"
    }
    cache 30
    loadbalance
}`)
	for name, want := range map[string]string{
		"long.test.":      "192.0.2.7",
		"short.test.":     "192.0.2.7",
		"a.example.test.": "192.0.2.9",
	} {
		answer := ask(t, addr, name)
		if len(answer.Answer) != 1 || !strings.HasSuffix(answer.Answer[0].String(), want) {
			t.Errorf("%s: %v, want %s", name, answer.Answer, want)
		}
	}
}

func TestForwards(t *testing.T) {
	upstream := start(t, `.:0 {
    bind 127.0.0.1
    hosts {
        192.0.2.8 far.test
    }
}`)
	addr := start(t, `.:0 {
    bind 127.0.0.1
    forward . `+upstream+` {
        max_concurrent 1000
    }
}`)
	answer := ask(t, addr, "far.test.")
	if len(answer.Answer) != 1 || !strings.HasSuffix(answer.Answer[0].String(), "192.0.2.8") {
		t.Errorf("got %v", answer.Answer)
	}
}

func TestUnlinkedPluginIsRefusedByName(t *testing.T) {
	old := dnsserver.Directives
	dnsserver.Directives = directives
	t.Cleanup(func() { dnsserver.Directives = old })
	_, err := caddy.Start(caddy.CaddyfileInput{Contents: []byte(".:0 {\n route53\n}"), ServerTypeName: "dns"})
	if err == nil || !strings.Contains(err.Error(), "route53") {
		t.Errorf("error %v, want one that names route53", err)
	}
}
