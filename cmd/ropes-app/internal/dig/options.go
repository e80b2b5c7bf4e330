package dig

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// resolvConf names the servers and the search list.
const resolvConf = "/etc/resolv.conf"

// query is one question.
type query struct {
	name  string
	qtype uint16
	class uint16
}

// options are what the command line asks for.
type options struct {
	args         []string
	server, port string
	family       string // "", "4" or "6"
	queries      []query
	conf         *dns.ClientConfig
	showVersion  bool

	short, search, tcp, recurse, edns, dnssec bool
	tries                                     int
	timeout                                   time.Duration

	cmd, comments, question, answer, authority, additional, stats bool
}

// parse reads the command line: options, @server, names and types in any order.
func parse(call *applet.Call) (*options, error) {
	o := &options{args: call.Args, port: "53", recurse: true, edns: true, tries: 3, timeout: 5 * time.Second}
	o.all(true)
	conf, err := dns.ClientConfigFromFile(resolvConf)
	if err != nil {
		conf = &dns.ClientConfig{Ndots: 1}
	}
	o.conf = conf
	var pending query
	add := func(name string) {
		o.queries = append(o.queries, query{name, pending.qtype, pending.class})
		pending = query{}
	}
	setType := func(word string) bool {
		t, ok := typeOf(word)
		if !ok {
			return false
		}
		if n := len(o.queries); n > 0 && o.queries[n-1].qtype == 0 {
			o.queries[n-1].qtype = t
		} else {
			pending.qtype = t
		}
		return true
	}
	args := call.Args
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case strings.HasPrefix(a, "@"):
			o.server = a[1:]
		case strings.HasPrefix(a, "+"):
			if err := o.plus(a[1:]); err != nil {
				return nil, err
			}
		case len(a) > 1 && a[0] == '-':
			used, err := o.dash(a, args[i+1:], add, setType, &pending)
			if err != nil {
				return nil, err
			}
			i += used
		case setType(a):
		case a == "IN" || a == "in":
		case a == "CH" || a == "ch":
			pending.class = dns.ClassCHAOS
		default:
			add(a)
		}
	}
	if len(o.queries) == 0 {
		if pending.qtype == 0 {
			pending.qtype = dns.TypeNS
		}
		add(".")
	}
	for i := range o.queries {
		q := &o.queries[i]
		if q.qtype == 0 {
			q.qtype = dns.TypeA
		}
		if q.class == 0 {
			q.class = dns.ClassINET
		}
		if _, ok := dns.IsDomainName(q.name); !ok {
			return nil, fmt.Errorf("'%s' is not a legal name", q.name)
		}
	}
	return o, nil
}

// dash reads an option of one letter and says how many words after it were its value.
func (o *options) dash(a string, after []string, add func(string), setType func(string) bool, pending *query) (int, error) {
	switch a {
	case "-4", "-6":
		o.family = a[1:]
		return 0, nil
	case "-v":
		o.showVersion = true
		return 0, nil
	}
	value, used := a[2:], 0
	if value == "" {
		if len(after) == 0 {
			return 0, fmt.Errorf("option %s needs a value, or is unknown", a)
		}
		value, used = after[0], 1
	}
	switch a[1] {
	case 'p':
		if _, err := strconv.ParseUint(value, 10, 16); err != nil {
			return 0, fmt.Errorf("%q is not a port", value)
		}
		o.port = value
	case 't':
		if !setType(value) {
			return 0, fmt.Errorf("unknown type %s", value)
		}
	case 'q':
		add(value)
	case 'c':
		class, ok := dns.StringToClass[strings.ToUpper(value)]
		if !ok {
			return 0, fmt.Errorf("unknown class %s", value)
		}
		pending.class = class
	case 'x':
		name, err := dns.ReverseAddr(value)
		if err != nil {
			return 0, fmt.Errorf("%q is not an address", value)
		}
		pending.qtype = dns.TypePTR
		add(name)
	default:
		return 0, fmt.Errorf("%w %s", applet.ErrUnknownOption, a[:2])
	}
	return used, nil
}

func (o *options) all(on bool) {
	o.cmd, o.comments, o.question, o.answer, o.authority, o.additional, o.stats = on, on, on, on, on, on, on
}

// plus reads a query option, without its plus sign.
func (o *options) plus(word string) error {
	name, value, hasValue := strings.Cut(word, "=")
	on := true
	if rest, ok := strings.CutPrefix(name, "no"); ok {
		name, on = rest, false
	}
	flags := map[string]*bool{
		"short": &o.short, "search": &o.search, "defname": &o.search, "tcp": &o.tcp, "vc": &o.tcp, "recurse": &o.recurse, "rec": &o.recurse,
		"edns": &o.edns, "dnssec": &o.dnssec, "cmd": &o.cmd, "comments": &o.comments, "question": &o.question,
		"answer": &o.answer, "authority": &o.authority, "additional": &o.additional, "stats": &o.stats,
	}
	if p, ok := flags[name]; ok && !hasValue {
		*p = on
		return nil
	}
	switch {
	case name == "all" && !hasValue:
		o.all(on)
		return nil
	case name == "domain" && on && hasValue:
		o.conf.Search, o.search = []string{value}, true
		return nil
	}
	n, err := strconv.Atoi(value)
	if on && err == nil && n >= 0 {
		switch name {
		case "time", "timeout":
			o.timeout = max(time.Duration(n)*time.Second, time.Second)
			return nil
		case "tries":
			o.tries = max(n, 1)
			return nil
		case "retry":
			o.tries = n + 1
			return nil
		case "ndots":
			o.conf.Ndots = n
			return nil
		}
	}
	return fmt.Errorf("invalid option: +%s", word)
}

// print shows a reply in dig's form.
func (o *options) print(w io.Writer, r reply) {
	m := r.msg
	if o.short {
		for _, rr := range m.Answer {
			fmt.Fprintln(w, data(rr))
		}
		return
	}
	if o.cmd {
		fmt.Fprintf(w, "\n; <<>> DiG (ropes) <<>> %s\n;; global options: +cmd\n", strings.Join(o.args, " "))
	}
	if o.comments {
		fmt.Fprintf(w, ";; Got answer:\n;; ->>HEADER<<- opcode: %s, status: %s, id: %d\n", dns.OpcodeToString[m.Opcode], dns.RcodeToString[m.Rcode], m.Id)
		fmt.Fprintf(w, ";; flags:%s; QUERY: %d, ANSWER: %d, AUTHORITY: %d, ADDITIONAL: %d\n\n", flagWords(m), len(m.Question), len(m.Answer), len(m.Ns), len(m.Extra))
	}
	if o.question {
		heading(w, o.comments, "QUESTION")
		for _, q := range m.Question {
			fmt.Fprintf(w, ";%s\t\t%s\t%s\n", q.Name, dns.ClassToString[q.Qclass], dns.TypeToString[q.Qtype])
		}
		fmt.Fprintln(w)
	}
	var extra []dns.RR
	for _, rr := range m.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			extra = append(extra, rr)
		}
	}
	for _, s := range []struct {
		on   bool
		name string
		rrs  []dns.RR
	}{{o.answer, "ANSWER", m.Answer}, {o.authority, "AUTHORITY", m.Ns}, {o.additional, "ADDITIONAL", extra}} {
		if !s.on || len(s.rrs) == 0 {
			continue
		}
		heading(w, o.comments, s.name)
		for _, rr := range s.rrs {
			fmt.Fprintln(w, rr)
		}
		if o.comments {
			fmt.Fprintln(w)
		}
	}
	if o.stats {
		network := "UDP"
		if r.tcp {
			network = "TCP"
		}
		host, _, _ := strings.Cut(hash(r.server), "#")
		fmt.Fprintf(w, ";; Query time: %d msec\n;; SERVER: %s(%s) (%s)\n;; WHEN: %s\n;; MSG SIZE  rcvd: %d\n\n",
			r.took.Milliseconds(), hash(r.server), host, network, time.Now().Format("Mon Jan 02 15:04:05 MST 2006"), m.Len())
	}
}

func heading(w io.Writer, on bool, name string) {
	if on {
		fmt.Fprintf(w, ";; %s SECTION:\n", name)
	}
}

// data is a record without its name, time to live, class and type.
func data(rr dns.RR) string {
	return strings.TrimPrefix(rr.String(), rr.Header().String())
}

func flagWords(m *dns.Msg) string {
	var b strings.Builder
	for _, f := range []struct {
		on   bool
		name string
	}{
		{m.Response, "qr"},
		{m.Authoritative, "aa"},
		{m.Truncated, "tc"},
		{m.RecursionDesired, "rd"},
		{m.RecursionAvailable, "ra"},
		{m.AuthenticatedData, "ad"},
		{m.CheckingDisabled, "cd"},
	} {
		if f.on {
			b.WriteString(" " + f.name)
		}
	}
	return b.String()
}
