package checks_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/checks/cel"
	"github.com/ropes-dev/ropes/checks/clustertest"
)

// compiled gives the expressions of a check their programs, as loading does.
func compiled(t *testing.T, c checks.Check) checks.Check {
	t.Helper()
	var names []string
	for n := range c.Objects {
		names = append(names, n)
	}
	for n := range c.Probes {
		names = append(names, n)
	}
	comp, err := cel.NewCompiler(names)
	if err != nil {
		t.Fatal(err)
	}
	do := func(e *checks.Expr, want cel.Result) {
		if e.Source == "" {
			return
		}
		e.Pos = checks.Pos{File: "lab.yaml", Line: 1}
		if e.Program, err = comp.Compile(e.Source, want); err != nil {
			t.Fatal(err)
		}
	}
	do(&c.Expr, cel.Bool)
	do(&c.Got, cel.String)
	for i := range c.Mistakes {
		do(&c.Mistakes[i].When, cel.Bool)
		do(&c.Mistakes[i].Got, cel.String)
	}
	return c
}

// answers is a prober with prepared answers by the URL asked for.
type answers struct {
	mu    sync.Mutex
	asked map[string]int
	by    map[string]func() (checks.Result, error)
}

func (a *answers) Probe(_ context.Context, p checks.Probe) (checks.Result, error) {
	a.mu.Lock()
	if a.asked == nil {
		a.asked = map[string]int{}
	}
	a.asked[p.HTTP.URL]++
	a.mu.Unlock()
	return a.by[p.HTTP.URL]()
}

func answer(status int) func() (checks.Result, error) {
	return func() (checks.Result, error) {
		return checks.Result{"sent": true, "ok": true, "error": "", "status": int64(status)}, nil
	}
}

func httpProbe(u string) checks.Probe { return checks.Probe{HTTP: &checks.HTTPProbe{URL: u}} }

var demo = checks.ObjectRef{APIVersion: "v1", Kind: "Namespace", Name: "demo"}

func teamCheck() checks.Check {
	return checks.Check{
		ID: "team", Objects: map[string]checks.ObjectRef{"ns": demo}, Want: "label team=a", Why: "No label.", Next: "Label it.",
		Expr: checks.Expr{Source: `ns.metadata.labels.team == "a"`},
		Mistakes: []checks.Mistake{
			{ID: "other", When: checks.Expr{Source: `ns.metadata.labels.team == "b"`}, Got: checks.Expr{Source: `"team is " + ns.metadata.labels.team`}, Why: "The other team.", Next: "Relabel."},
			{ID: "annotated", When: checks.Expr{Source: `ns.metadata.annotations.team == "a"`}, Why: "An annotation.", Next: "Label it."},
		},
	}
}

const namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo, labels: {x: y}, %s}"

func TestRunVerdicts(t *testing.T) {
	for name, tt := range map[string]struct {
		manifest string
		want     checks.Verdict
	}{
		"met":          {"labels: {team: a}", checks.Verdict{State: checks.Met, Want: "label team=a"}},
		"first match":  {"labels: {team: b}", checks.Verdict{State: checks.Unmet, Mistake: "other", Got: "team is b", Why: "The other team.", Next: "Relabel."}},
		"second match": {"annotations: {team: a}", checks.Verdict{State: checks.Unmet, Mistake: "annotated", Got: "no such key: labels", Why: "An annotation.", Next: "Label it."}},
		"no match":     {"labels: {team: c}", checks.Verdict{State: checks.Unmet, Got: "the condition does not hold", Why: "No label.", Next: "Label it."}},
		"absent":       {"", checks.Verdict{State: checks.Unmet, Got: "Namespace demo does not exist", Why: "No label.", Next: "Label it."}},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, _ := clustertest.New(t)
			if tt.manifest != "" {
				cluster, _ = clustertest.New(t, clustertest.Object(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo, "+tt.manifest+"}"))
			}
			r := checks.Runner{Cluster: cluster}
			var told []checks.Verdict
			got := r.Run(t.Context(), "step", []checks.Check{compiled(t, teamCheck())}, checks.ObserverFunc(func(v checks.Verdict) { told = append(told, v) }))
			tt.want.Step, tt.want.Check, tt.want.Want = "step", "team", "label team=a"
			if d := cmp.Diff([]checks.Verdict{tt.want}, got, cmpopts.IgnoreFields(checks.Verdict{}, "At", "Took")); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(got, told); d != "" {
				t.Errorf("observer: %s", d)
			}
		})
	}
}

func TestRunCouldNotRun(t *testing.T) {
	refused := &url.Error{Op: "Get", URL: "https://127.0.0.1:6443/api/v1/namespaces/demo", Err: syscall.ECONNREFUSED}
	for name, tt := range map[string]struct {
		check checks.Check
		fail  error // of the API server
		why   string
	}{
		"cluster gone":  {teamCheck(), refused, "The API server does not answer: connection refused"},
		"unknown kind":  {checks.Check{ID: "c", Objects: map[string]checks.ObjectRef{"x": {APIVersion: "moon/v1", Kind: "Crater", Name: "c"}}, Expr: checks.Expr{Source: "x != null"}}, nil, "does not know kind Crater in moon/v1"},
		"wrong types":   {checks.Check{ID: "c", Objects: map[string]checks.ObjectRef{"ns": demo}, Expr: checks.Expr{Source: `ns.metadata.name > 1`}}, nil, "lab.yaml:1: no such overload"},
		"probe refused": {checks.Check{ID: "c", Probes: map[string]checks.Probe{"p": httpProbe("broken")}, Expr: checks.Expr{Source: "p.ok"}}, nil, "probe p: no curl"},
		"probe in when": {checks.Check{ID: "c", Objects: map[string]checks.ObjectRef{"ns": demo}, Probes: map[string]checks.Probe{"p": httpProbe("broken")}, Expr: checks.Expr{Source: "ns == null"}, Mistakes: []checks.Mistake{{ID: "m", When: checks.Expr{Source: "p.ok"}}}}, nil, "probe p: no curl"},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, dyn := clustertest.New(t, clustertest.Object(t, fmt.Sprintf(namespace, "annotations: {}")))
			if tt.fail != nil {
				dyn.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, tt.fail })
			}
			prober := &answers{by: map[string]func() (checks.Result, error){"broken": func() (checks.Result, error) { return nil, errors.New("no curl") }}}
			r := checks.Runner{Cluster: cluster, Prober: prober}
			v := r.Run(t.Context(), "step", []checks.Check{compiled(t, tt.check)}, checks.Discard)[0]
			if v.State != checks.CouldNotRun || !strings.Contains(v.Why, tt.why) || v.Next == "" || v.Mistake != "" {
				t.Errorf("%+v, want could-not-run because %q", v, tt.why)
			}
		})
	}
}

func TestRunAsksOnceAndOnlyWhatItNeeds(t *testing.T) {
	cluster, _ := clustertest.New(t)
	prober := &answers{by: map[string]func() (checks.Result, error){"a": answer(200), "b": answer(500), "c": answer(200)}}
	probes := map[string]checks.Probe{"a": httpProbe("a"), "b": httpProbe("b"), "c": httpProbe("c")}
	met := checks.Check{ID: "met", Probes: probes, Expr: checks.Expr{Source: "a.status == 200"}, Got: checks.Expr{Source: "string(c.status)"}}
	unmet := checks.Check{
		ID: "unmet", Probes: probes, Expr: checks.Expr{Source: "a.status == 500"},
		Mistakes: []checks.Mistake{{ID: "m", When: checks.Expr{Source: "b.status == 500"}, Why: "w", Next: "n"}},
	}
	r := checks.Runner{Cluster: cluster, Prober: prober}
	vs := r.Run(t.Context(), "s", []checks.Check{compiled(t, met), compiled(t, unmet)}, checks.Discard)
	if vs[0].State != checks.Met || vs[1].Mistake != "m" || vs[1].Got != "a: status 200" {
		t.Errorf("%+v", vs)
	}
	if d := cmp.Diff(map[string]int{"a": 1, "b": 1}, prober.asked); d != "" {
		t.Errorf("asked: %s", d)
	}
}

func TestRunTimesOut(t *testing.T) {
	cluster, _ := clustertest.New(t)
	r := checks.Runner{Cluster: cluster, Prober: stuck{}, Timeout: 20 * time.Millisecond}
	c := compiled(t, checks.Check{ID: "c", Probes: map[string]checks.Probe{"p": httpProbe("x")}, Expr: checks.Expr{Source: "p.ok"}})
	v := r.Run(t.Context(), "s", []checks.Check{c}, checks.Discard)[0]
	if v.State != checks.CouldNotRun || !strings.Contains(v.Why, "No answer in time") {
		t.Errorf("%+v", v)
	}
}

type stuck struct{}

func (stuck) Probe(ctx context.Context, _ checks.Probe) (checks.Result, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
