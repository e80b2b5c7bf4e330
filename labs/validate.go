package labs

import (
	"net"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/ropes-dev/ropes/checks"
)

// validate complains of all that is wrong with what lab.yaml says, files and expressions aside.
func (l *loader) validate(lab *Lab) {
	l.id(lab.Pos, "lab", lab.ID)
	if l.dir != "." && lab.ID != path.Base(l.dir) {
		l.complain(lab.Pos, "id %q differs from the folder's name %q", lab.ID, path.Base(l.dir))
	}
	l.required(lab.Pos, map[string]string{"title": lab.Title, "summary": lab.Summary})
	if lab.Minutes <= 0 {
		l.complain(lab.Pos, "minutes: want how long a learner needs, in minutes")
	}
	known := []Need{NeedMesh, NeedStorage, NeedNetworkPolicy, NeedMetrics}
	for _, n := range lab.Needs {
		if !slices.Contains(known, n) {
			l.complain(lab.Pos, "needs: unknown %q; known are %v", n, known)
		}
	}
	for _, ns := range lab.Namespaces {
		l.id(lab.Pos, "namespace", ns)
		if ns == "default" || strings.HasPrefix(ns, "kube-") || strings.HasPrefix(ns, "istio-") || ns == "ropes-system" {
			l.complain(lab.Pos, "namespaces: %s belongs to the cluster; a reset would empty it", ns)
		}
	}
	for _, o := range lab.Owns {
		l.kind(o.Pos, o.APIVersion, o.Kind)
		if (len(o.Names) == 0) == !o.Where.Present() {
			l.complain(o.Pos, "owns: give either names or where")
		}
	}
	if len(lab.Steps) == 0 {
		l.complain(lab.Pos, "steps: a lab has at least one")
	}
	seen := map[string]bool{}
	for i := range lab.Steps {
		s := &lab.Steps[i]
		l.unique(s.Pos, "step", s.ID, seen)
		l.step(s)
	}
}

func (l *loader) step(s *Step) {
	l.required(s.Pos, map[string]string{"title": s.Title})
	if len(s.Hints) == 0 {
		l.complain(s.Pos, "step %s: hints: at least one tier", s.ID)
	}
	if slices.Contains(s.Hints, "") {
		l.complain(s.Pos, "step %s: hints: one is empty", s.ID)
	}
	if len(s.Checks) == 0 {
		l.complain(s.Pos, "step %s: checks: at least one", s.ID)
	}
	l.named(s.Objects, s.Probes)
	for _, ref := range s.Watch {
		l.ref(ref)
	}
	ids, mistakes := map[string]bool{}, map[string]bool{}
	for i := range s.Checks {
		c := &s.Checks[i]
		l.unique(c.Pos, "check", c.ID, ids)
		l.oneCheck(s, c)
		for _, m := range c.Mistakes {
			l.unique(m.Pos, "mistake", m.ID, mistakes)
			l.required(m.Pos, map[string]string{"when": m.When.Source, "why": m.Why, "next": m.Next})
		}
	}
}

func (l *loader) oneCheck(s *Step, c *checks.Check) {
	l.required(c.Pos, map[string]string{
		"description": c.Description, "expr": c.Expr.Source, "want": c.Want, "why": c.Why, "next": c.Next,
	})
	l.named(c.Objects, c.Probes)
	for _, ref := range c.Watch {
		l.ref(ref)
	}
	for name, ref := range c.Objects {
		if _, twice := s.Objects[name]; twice {
			l.complain(ref.Pos, "object %q is already one of the step", name)
		}
		if _, twice := s.Probes[name]; twice {
			l.complain(ref.Pos, "%q is already a probe of the step", name)
		}
	}
	for name, p := range c.Probes {
		if _, twice := s.Probes[name]; twice {
			l.complain(p.Pos, "probe %q is already one of the step", name)
		}
		if _, twice := s.Objects[name]; twice {
			l.complain(p.Pos, "%q is already an object of the step", name)
		}
	}
}

// variable is what CEL takes for a name, its reserved words aside: the compiler knows those.
var variable = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

func (l *loader) named(objects map[string]checks.ObjectRef, probes map[string]checks.Probe) {
	for name, ref := range objects {
		if !variable.MatchString(name) {
			l.complain(ref.Pos, "object %q: a name is letters, digits and _", name)
		}
		l.ref(ref)
	}
	for name, p := range probes {
		if !variable.MatchString(name) {
			l.complain(p.Pos, "probe %q: a name is letters, digits and _", name)
		}
		if _, twice := objects[name]; twice {
			l.complain(p.Pos, "%q names both an object and a probe", name)
		}
		l.probe(name, p)
	}
}

func (l *loader) ref(r checks.ObjectRef) {
	l.kind(r.Pos, r.APIVersion, r.Kind)
	if r.Name != "" && (r.Selector != "" || r.FieldSelector != "") {
		l.complain(r.Pos, "give either name or selectors")
	}
	if _, err := labels.Parse(r.Selector); err != nil {
		l.complain(r.Pos, "selector: %w", err)
	}
	if _, err := fields.ParseSelector(r.FieldSelector); err != nil {
		l.complain(r.Pos, "fieldSelector: %w", err)
	}
}

func (l *loader) probe(name string, p checks.Probe) {
	asked := 0
	for _, set := range []bool{p.HTTP != nil, p.TCP != nil, p.TLS != nil, p.DNS != nil, p.Exec != nil, p.Access != nil, p.Admit != nil} {
		if set {
			asked++
		}
	}
	if asked != 1 {
		l.complain(p.Pos, "probe %s: give exactly one of http, tcp, tls, dns, exec, access, admit", name)
		return
	}
	if p.Timeout < 0 || p.Timeout > checks.MaxProbeTimeout {
		l.complain(p.Pos, "probe %s: timeout is at most %v", name, checks.MaxProbeTimeout)
	}
	if p.Live() {
		l.place(name, p)
	} else if p.From != (checks.Place{}) {
		l.complain(p.Pos, "probe %s: an %s probe is put to the API server and has no from", name, p.Kind())
	}
	switch {
	case p.HTTP != nil:
		if u, err := url.Parse(p.HTTP.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			l.complain(p.HTTP.Pos, "probe %s: url: want http://... or https://..., found %q", name, p.HTTP.URL)
		}
	case p.TCP != nil:
		l.address(p.TCP.Pos, name, p.TCP.Address)
	case p.TLS != nil:
		l.address(p.TLS.Pos, name, p.TLS.Address)
	case p.DNS != nil:
		l.required(p.DNS.Pos, map[string]string{"name": p.DNS.Name})
		if !slices.Contains([]string{"", "A", "AAAA", "CNAME", "SRV", "TXT"}, p.DNS.Type) {
			l.complain(p.DNS.Pos, "probe %s: type: want A, AAAA, CNAME, SRV or TXT, found %q", name, p.DNS.Type)
		}
	case p.Exec != nil && len(p.Exec.Command) == 0:
		l.complain(p.Exec.Pos, "probe %s: command is required", name)
	case p.Access != nil:
		a := p.Access
		l.required(a.Pos, map[string]string{"verb": a.Verb, "resource": a.Resource})
		if (a.ServiceAccount == "") == (a.User == "") {
			l.complain(a.Pos, "probe %s: give either serviceAccount or user", name)
		}
		l.serviceAccount(a.Pos, name, a.ServiceAccount)
	case p.Admit != nil:
		l.serviceAccount(p.Admit.Pos, name, p.Admit.ServiceAccount)
		for _, key := range []string{"apiVersion", "kind", "metadata"} {
			if p.Admit.Manifest[key] == nil {
				l.complain(p.Admit.Pos, "probe %s: manifest: %s is required", name, key)
			}
		}
	}
}

func (l *loader) place(name string, p checks.Probe) {
	at := p.From
	switch {
	case at.Host:
		if p.Exec != nil {
			l.complain(p.Pos, "probe %s: a command is run in a pod, never on the learner's machine", name)
		}
	case at.Namespace == "" || (at.Pod == "") == (at.Selector == ""):
		l.complain(p.Pos, "probe %s: from: want host, or {namespace, pod or selector, container}", name)
	default:
		if _, err := labels.Parse(at.Selector); err != nil {
			l.complain(at.Pos, "probe %s: selector: %w", name, err)
		}
	}
}

func (l *loader) address(pos checks.Pos, name, addr string) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		l.complain(pos, "probe %s: address: want host:port, found %q", name, addr)
	}
}

func (l *loader) serviceAccount(pos checks.Pos, name, sa string) {
	if ns, n, ok := strings.Cut(sa, "/"); sa != "" && (!ok || ns == "" || n == "") {
		l.complain(pos, "probe %s: serviceAccount: want namespace/name, found %q", name, sa)
	}
}

func (l *loader) kind(pos checks.Pos, apiVersion, kind string) {
	l.required(pos, map[string]string{"apiVersion": apiVersion, "kind": kind})
}

func (l *loader) required(pos checks.Pos, fields map[string]string) {
	for _, k := range sortedKeys(fields) {
		if strings.TrimSpace(fields[k]) == "" {
			l.complain(pos, "%s is required", k)
		}
	}
}

func (l *loader) unique(pos checks.Pos, what, id string, seen map[string]bool) {
	l.id(pos, what, id)
	if seen[id] {
		l.complain(pos, "%s %q comes twice", what, id)
	}
	seen[id] = true
}

func (l *loader) id(pos checks.Pos, what, id string) {
	if id == "" {
		l.complain(pos, "%s: id is required", what)
	} else if msgs := validation.IsDNS1123Label(id); len(msgs) > 0 {
		l.complain(pos, "%s %q: want a DNS label: lower-case letters, digits and -", what, id)
	}
}
