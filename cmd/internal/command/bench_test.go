package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/labs"
	"github.com/ropes-dev/ropes/labs/session"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
)

// bench runs commands in this process against fakes.
type bench struct {
	t        *testing.T
	home     string
	env      map[string]string
	in       io.Reader
	provider *fakeProvider
	session  *fakeSession
	kubectl  *fakeTool
	objects  []runtime.Object // what the API server has
	apiErr   error
	installs []string // what was installed, by name
	catalog  labs.Catalog
	labsErr  error
	deps     Deps
}

func newBench(t *testing.T) *bench {
	t.Helper()
	home := t.TempDir()
	b := &bench{
		t: t, home: home, in: strings.NewReader(""),
		env:      map[string]string{"HOME": home, "PATH": os.Getenv("PATH"), "SHELL": "/bin/sh"},
		provider: &fakeProvider{clusters: map[string]bootstrap.Cluster{}},
		kubectl:  &fakeTool{},
		catalog:  testLabs(),
	}
	b.session = &fakeSession{bench: b}
	install := func(name string) Install {
		return Install{Name: name, Do: func(_ context.Context, c bootstrap.Cluster, say func(string)) error {
			say("waiting for it")
			b.installs = append(b.installs, name+" on "+c.Name)
			b.objects = installed()
			return b.provider.installErr
		}}
	}
	b.deps = Deps{
		Getenv: func(k string) string { return b.env[k] }, Self: "/bin/true",
		Providers: []bootstrap.Provider{b.provider},
		Absent:    map[string]string{"kind": "it comes with a later release"},
		Installs:  []Install{install("install Istio"), install("install the sample apps")},
		Clients: func(kubeconfig []byte) (kubernetes.Interface, error) {
			if b.apiErr != nil {
				return nil, b.apiErr
			}
			return fake.NewClientset(b.objects...), nil
		},
		Logs: fakeLogs{"ropes-worker/kubelet": "kubelet says\n", "supervisor": "supervisor says\n"},
		Labs: func(dirs []string) (labs.Catalog, error) {
			if len(dirs) > 0 && dirs[0] == "broken" {
				return nil, errors.Join(errors.New("broken/x/lab.yaml:3: unknown field \"titel\""), errors.New("broken/x/lab.yaml:9: no steps"))
			}
			return b.catalog, b.labsErr
		},
		Session: func(o session.Options) (Session, error) {
			b.session.opts = o
			return b.session, nil
		},
		Kubectl: b.kubectl, Istioctl: &fakeTool{},
		Versions: func() (map[string]string, error) { return map[string]string{"kubernetes": "v1.36.3"}, nil },
		Root:     true,
	}
	return b
}

// result is what a learner gets.
type result struct {
	out, err string
	code     int
}

func (b *bench) runCtx(ctx context.Context, args ...string) result {
	b.t.Helper()
	var out, errs bytes.Buffer
	d := b.deps
	d.In, d.Out, d.Err = b.in, &out, &errs
	for k, v := range b.env {
		d.Environ = append(d.Environ, k+"="+v)
	}
	code := Run(ctx, args, d)
	clean := strings.NewReplacer(b.home, "HOME")
	return result{clean.Replace(out.String()), clean.Replace(errs.String()), code}
}

func (b *bench) run(args ...string) result { b.t.Helper(); return b.runCtx(b.t.Context(), args...) }

// expect runs a command and compares all that it does.
func (b *bench) expect(want result, args ...string) {
	b.t.Helper()
	got := b.run(args...)
	for _, part := range []struct{ name, want, got string }{{"stdout", want.out, got.out}, {"stderr", want.err, got.err}} {
		if diff := cmp.Diff(part.want, part.got); diff != "" {
			b.t.Errorf("ropes %s: %s (-want +got)\n%s", strings.Join(args, " "), part.name, diff)
		}
	}
	if want.code != got.code {
		b.t.Errorf("ropes %s: exit code %d, want %d", strings.Join(args, " "), got.code, want.code)
	}
}

// kubeconfigFor is a kubeconfig as providers give it.
func kubeconfigFor(name string) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: ropes-%[1]s
contexts: [{name: ropes-%[1]s, context: {cluster: ropes-%[1]s, user: ropes-%[1]s}}]
clusters: [{name: ropes-%[1]s, cluster: {server: "https://127.0.0.1:6443"}}]
users: [{name: ropes-%[1]s, user: {token: t}}]
`, name)
}

func clusterOf(name string, workers int, running bool) bootstrap.Cluster {
	c := bootstrap.Cluster{
		Name: name, Provider: "embedded", Running: running, Kubeconfig: kubeconfigFor(name),
		Nodes: []string{name + "-control-plane"}, APIPort: 6443, HTTPPort: 8080, HTTPSPort: 8443,
	}
	for i := range workers {
		c.Nodes = append(c.Nodes, name+"-worker"+strings.TrimPrefix(fmt.Sprint(i+1), "1"))
	}
	return c
}

// up puts a cluster there as `ropes up` leaves it.
func (b *bench) up() {
	b.provider.clusters["ropes"] = clusterOf("ropes", 2, true)
	b.objects = installed()
}

func installed() []runtime.Object {
	var list []runtime.Object
	for i, name := range []string{"ropes-control-plane", "ropes-worker", "ropes-worker2"} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if i == 0 {
			n.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""}
		}
		n.Status.NodeInfo.KubeletVersion = "v1.36.3"
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		list = append(list, n)
	}
	for _, d := range [][2]string{
		{"istio-system", "istiod"},
		{"istio-ingress", "istio-ingressgateway"},
		{"istio-egress", "istio-egressgateway"},
		{"bookinfo", "productpage-v1"},
		{"bookinfo", "reviews-v1"},
		{"httpbin", "httpbin"},
		{"client", "client"},
		{"outside", "outside"},
	} {
		list = append(list, &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: d[0], Name: d[1], Annotations: map[string]string{helmRelease: d[0]}},
			Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": d[1]}}},
			Status:     appsv1.DeploymentStatus{Replicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1},
		})
	}
	return list
}

type fakeProvider struct {
	clusters              map[string]bootstrap.Cluster
	findings              []bootstrap.Finding
	specs                 []bootstrap.Spec
	downs                 []string
	upErr, downErr        error
	statusErr, installErr error
	leave                 bool // a failed Up leaves the cluster, stopped
	block                 bool // Up lasts until its context ends
}

func (*fakeProvider) Name() string                                 { return "embedded" }
func (p *fakeProvider) Doctor(context.Context) []bootstrap.Finding { return p.findings }

func (p *fakeProvider) Up(ctx context.Context, spec bootstrap.Spec, obs bootstrap.Observer) (bootstrap.Cluster, error) {
	p.specs = append(p.specs, spec)
	err := bootstrap.Run(ctx, []bootstrap.Step{{Name: "start the nodes", Do: func(ctx context.Context, say func(string)) error {
		say("waiting for ropes-worker")
		if p.leave {
			p.clusters[spec.Name] = clusterOf(spec.Name, spec.Workers, false)
		}
		if p.block {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return p.upErr
	}}}, true, obs)
	if err != nil {
		return bootstrap.Cluster{}, err
	}
	p.clusters[spec.Name] = clusterOf(spec.Name, spec.Workers, true)
	return p.clusters[spec.Name], nil
}

func (p *fakeProvider) Down(_ context.Context, name string, _ bootstrap.Observer) error {
	p.downs = append(p.downs, name)
	if p.downErr == nil {
		delete(p.clusters, name)
	}
	return p.downErr
}

func (p *fakeProvider) Status(_ context.Context, name string) (bootstrap.Cluster, error) {
	if p.statusErr != nil {
		return bootstrap.Cluster{}, p.statusErr
	}
	c, ok := p.clusters[name]
	if !ok {
		return c, fmt.Errorf("%s: %w", name, bootstrap.ErrNotFound)
	}
	return c, nil
}

func (p *fakeProvider) List() ([]string, error) {
	var names []string
	for name := range p.clusters {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

type fakeTool struct {
	kubeconfig string
	args       []string
	code       int
}

func (f *fakeTool) Run(kubeconfig string, args []string, failed func()) int {
	f.kubeconfig, f.args = kubeconfig, args
	if f.code != 0 {
		failed()
	}
	return f.code
}

func (f *fakeTool) Complete(_ string, args []string) (string, error) {
	return "pods\tthings\nfor " + strings.Join(args, " ") + "\n:4\nCompletion ended with directive\n", nil
}

type fakeLogs map[string]string

func (f fakeLogs) Components(string) []string {
	return []string{"supervisor", "ropes-worker/kubelet"}
}

func (f fakeLogs) Open(_ context.Context, _, component string, _ bool) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(f[component])), nil
}

func testLabs() labs.Catalog {
	step := func(id, title string) labs.Step {
		return labs.Step{
			ID: id, Title: title, Text: "# " + title + "\n\nDo *it* now.\n", Hints: []string{"Think.", "Do `it`."},
			Solution: "echo solved " + id + "\n",
			Checks:   []checks.Check{{ID: "there", Description: "It is there"}, {ID: "right", Description: "It is right"}},
		}
	}
	return labs.Catalog{
		{
			ID: "namespaces", Title: "Rooms in the house", Summary: "Sum.", Minutes: 40, Source: "built in",
			Needs: []labs.Need{labs.NeedNetworkPolicy}, Steps: []labs.Step{step("create", "Create one"), step("quota", "A budget")},
		},
		{ID: "storage", Title: "Data that stays", Minutes: 30, Source: "built in", Steps: []labs.Step{step("claim", "Claim it")}},
	}
}

// fakeSession keeps progress in memory and gives the verdicts it is told to.
type fakeSession struct {
	bench    *bench
	opts     session.Options
	lab      string
	met      map[string]bool
	hints    int
	verdicts []checks.Verdict
	err      error
	report   session.ResetReport
	watch    func(ctx context.Context, say func(session.Event)) error
}

func (s *fakeSession) live() error {
	if len(s.opts.Kubeconfig) == 0 {
		return errors.New("used without a cluster")
	}
	return s.err
}

func (s *fakeSession) tell(e session.Event) {
	if s.opts.Observer != nil {
		s.opts.Observer.Session(e)
	}
}

func (s *fakeSession) Progress() (session.Progress, error) {
	p := session.Progress{Cluster: s.opts.Cluster, Lab: s.lab, Labs: map[string]*session.LabProgress{}}
	if s.lab == "" {
		return p, nil
	}
	lab, step, err := s.Current()
	if err != nil {
		return p, err
	}
	lp := &session.LabProgress{Steps: map[string]*session.StepProgress{}}
	if step != nil {
		lp.Step = step.ID
	}
	for id := range s.met {
		now := time.Unix(0, 0)
		lp.Steps[id] = &session.StepProgress{Met: &now}
	}
	p.Labs[lab.ID] = lp
	return p, nil
}

func (s *fakeSession) Current() (*labs.Lab, *labs.Step, error) {
	lab, ok := s.bench.catalog.Lab(s.lab)
	if !ok {
		return nil, nil, session.ErrNoLab
	}
	for i := range lab.Steps {
		if !s.met[lab.Steps[i].ID] {
			return lab, &lab.Steps[i], nil
		}
	}
	return lab, nil, nil
}

func (s *fakeSession) Start(_ context.Context, lab string) error {
	if err := s.live(); err != nil {
		return err
	}
	s.tell(session.Event{Kind: session.Progressing, Detail: "applying the baseline"})
	s.lab, s.met = lab, map[string]bool{}
	return nil
}

func (s *fakeSession) Check(_ context.Context, step string) ([]checks.Verdict, error) {
	if err := s.live(); err != nil {
		return nil, err
	}
	if checks.AllMet(s.verdicts) {
		s.met[step] = true
	}
	return s.verdicts, nil
}

func (s *fakeSession) Watch(ctx context.Context) error {
	if err := s.live(); err != nil {
		return err
	}
	return s.watch(ctx, s.tell)
}

func (s *fakeSession) Hint(step string) (session.Hint, error) {
	s.hints = min(s.hints+1, 2)
	return session.Hint{Step: step, Tier: s.hints, Of: 2, Text: []string{"Think.", "Do `it`."}[s.hints-1]}, nil
}

func (s *fakeSession) Reset(_ context.Context, scope session.Scope) (session.ResetReport, error) {
	if err := s.live(); err != nil {
		return session.ResetReport{}, err
	}
	s.report.Scope = scope
	return s.report, nil
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// assertFiles compares what lies under dir, directories left out.
func assertFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	var got []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			got = append(got, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files in %s: %s", dir, diff)
	}
}
