package existing

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/kubeclient"
)

// Options say where things are.
type Options struct {
	StateRoot string // records lie in its directory "existing"
	// Kubeconfigs lists the learner's kubeconfig files.
	Kubeconfigs func() ([]string, error)
	// MeshSpaces and AppSpaces are the namespaces that the mesh and the samples are put into.
	MeshSpaces, AppSpaces []string
}

// Provider implements bootstrap.Provider.
type Provider struct{ opts Options }

var _ bootstrap.Provider = (*Provider)(nil)

// New returns the provider. It reads nothing yet.
func New(opts Options) *Provider { return &Provider{opts: opts} }

// Name implements bootstrap.Provider.
func (p *Provider) Name() string { return bootstrap.Existing }

// Up implements bootstrap.Provider: it examines the cluster behind spec.Context and
// remembers it. It changes nothing in the cluster.
func (p *Provider) Up(ctx context.Context, spec bootstrap.Spec, obs bootstrap.Observer) (bootstrap.Cluster, error) {
	var r record
	var nodes, notes []string
	steps := []bootstrap.Step{
		{Name: "read the kubeconfig", Do: func(context.Context, func(string)) (err error) {
			r, err = p.plan(spec)
			return err
		}},
		{Name: "examine the cluster", Do: func(ctx context.Context, say func(string)) (err error) {
			nodes, notes, err = p.examine(ctx, spec.Name, &r, say)
			return err
		}},
		{Name: "remember it", Do: func(context.Context, func(string)) error { return p.save(spec.Name, r) }},
	}
	if err := bootstrap.Run(ctx, steps, spec.Retain, obs); err != nil {
		return bootstrap.Cluster{}, err
	}
	c := p.cluster(spec.Name, r)
	c.Nodes, c.Notes = nodes, append(c.Notes, notes...)
	return c, nil
}

// plan joins what is asked for with what is remembered.
func (p *Provider) plan(spec bootstrap.Spec) (record, error) {
	old, err := p.load(spec.Name)
	known := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return record{}, err
	}
	r := record{Context: spec.Context, UseIstio: spec.UseIstio}
	if known {
		if r.Context == "" {
			r.Context, r.UseIstio = old.Context, old.UseIstio
		}
		if r.Context != old.Context {
			return record{}, fmt.Errorf("cluster %q is context %s; `ropes --name %s down` takes ropes off it, another --name stands for another context", spec.Name, old.Context, spec.Name)
		}
		if r.UseIstio != old.UseIstio {
			return record{}, fmt.Errorf("cluster %q was set up with --use-istio=%t; `ropes --name %s down` takes ropes off it first", spec.Name, old.UseIstio, spec.Name)
		}
		r.UID = old.UID
	}
	r.Kubeconfig, r.Server, err = p.alone(r.Context, spec.Name)
	return r, err
}

// reachTimeout bounds the first request to the cluster.
const reachTimeout = 15 * time.Second

// examine fails where labs cannot run or would do harm. It returns the nodes and what to
// tell the learner.
func (p *Provider) examine(ctx context.Context, name string, r *record, say func(string)) (nodes, notes []string, err error) {
	found, all, err := p.look(ctx, name, r, say)
	if err != nil {
		return nil, nil, err
	}
	var reasons []string
	for _, f := range found {
		text := f.Check + ": " + f.Detail
		if f.Mend != "" {
			text += "; " + f.Mend
		}
		switch f.Severity {
		case bootstrap.Fatal:
			reasons = append(reasons, text)
		case bootstrap.Warning:
			notes = append(notes, text)
		}
	}
	if len(reasons) > 0 {
		return nil, nil, fmt.Errorf("labs cannot run on context %s\n%s", r.Context, strings.Join(reasons, "\n"))
	}
	for i := range all {
		nodes = append(nodes, all[i].Name)
	}
	return nodes, notes, nil
}

// look connects, makes sure that it is the same cluster as before and asks all questions.
// Where none is in the way of the others, it returns the nodes as well.
func (p *Provider) look(ctx context.Context, name string, r *record, say func(string)) ([]bootstrap.Finding, []corev1.Node, error) {
	client, err := kubeclient.New(r.Kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	say("asking " + r.Server)
	reach, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	ns, err := client.CoreV1().Namespaces().Get(reach, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("context %s, %s: %w", r.Context, r.Server, err)
	}
	if uid := string(ns.UID); r.UID != "" && r.UID != uid {
		return nil, nil, fmt.Errorf("context %s leads to another cluster than it did; `ropes --name %s down --forget` lets go of the old one", r.Context, name)
	}
	r.UID = string(ns.UID)
	e := examination{
		client: client, name: name, useIstio: r.UseIstio,
		spaces: slices.Concat(p.opts.MeshSpaces, p.opts.AppSpaces), mesh: p.opts.MeshSpaces,
	}
	found, err := e.run(ctx, say)
	return found, e.nodes, err
}

// Examine reports on the cluster behind a context, as Up would find it.
func (p *Provider) Examine(ctx context.Context, spec bootstrap.Spec) []bootstrap.Finding {
	r, err := p.plan(spec)
	if err == nil {
		var found []bootstrap.Finding
		if found, _, err = p.look(ctx, spec.Name, &r, func(string) {}); err == nil {
			return found
		}
	}
	return []bootstrap.Finding{{Check: "context", Severity: bootstrap.Fatal, Detail: err.Error()}}
}

// Down implements bootstrap.Provider. It lets go of the cluster; what was put into it has
// to be removed before.
func (p *Provider) Down(ctx context.Context, name string, obs bootstrap.Observer) error {
	if _, err := os.Lstat(p.path(name)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return bootstrap.Run(ctx, []bootstrap.Step{
		{Name: "let go of the cluster", Do: func(context.Context, func(string)) error { return p.forget(name) }},
	}, true, obs)
}

// Status implements bootstrap.Provider from what is remembered and the credentials that
// the learner has by now; it asks no cluster.
func (p *Provider) Status(_ context.Context, name string) (bootstrap.Cluster, error) {
	r, err := p.load(name)
	if errors.Is(err, fs.ErrNotExist) {
		return bootstrap.Cluster{}, fmt.Errorf("%s: %w", name, bootstrap.ErrNotFound)
	}
	if err != nil {
		return bootstrap.Cluster{}, err
	}
	return p.cluster(name, p.renewed(name, r)), nil
}

func (p *Provider) cluster(name string, r record) bootstrap.Cluster {
	return bootstrap.Cluster{
		Name: name, Provider: p.Name(), Kubeconfig: r.Kubeconfig, Running: true, Shared: true, OtherIstio: r.UseIstio, Server: r.Server,
	}
}

// List names the clusters that are remembered.
func (p *Provider) List() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(p.opts.StateRoot, "existing"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	return names, err
}

// Doctor implements bootstrap.Provider. Which cluster is meant is not known here, so it
// only looks for contexts to choose from; Examine looks at one.
func (p *Provider) Doctor(context.Context) []bootstrap.Finding {
	found, err := p.contexts()
	switch {
	case err != nil:
		return []bootstrap.Finding{{Check: "kubeconfig", Severity: bootstrap.Fatal, Detail: err.Error()}}
	case len(found) == 0:
		return []bootstrap.Finding{{Check: "kubeconfig", Severity: bootstrap.Fatal, Detail: "there is no context in it", Mend: "have whoever runs the cluster give you a kubeconfig, and set KUBECONFIG to its path"}}
	}
	return []bootstrap.Finding{{
		Check: "kubeconfig", Severity: bootstrap.OK,
		Detail: fmt.Sprintf("contexts to choose from: %s; `ropes doctor --provider existing --context NAME` looks at one", some(found)),
	}}
}
