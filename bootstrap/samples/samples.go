// Package samples installs, inspects and removes the apps that labs are played on:
// Bookinfo, httpbin, a client, and a server beyond the mesh. It knows which charts there
// are and which of their namespaces are in the mesh. It does not know how a chart is
// installed, nor the mesh itself, whose injector and CRDs must be there before.
package samples

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropes-dev/ropes/bootstrap/helm"
	"github.com/ropes-dev/ropes/bootstrap/kubeclient"
	"github.com/ropes-dev/ropes/bootstrap/namespaces"
	"github.com/ropes-dev/ropes/bootstrap/rollout"
	"github.com/ropes-dev/ropes/charts"
)

const (
	// part marks the namespaces that we made, for Uninstall.
	part = "samples"
)

// Config says where to install.
type Config struct {
	Kubeconfig []byte       // self-contained; its current context is the cluster
	Log        *slog.Logger // what Helm says; nil discards it
	// Values, by chart, go over those of the chart itself. Nil where there are none.
	Values map[string]map[string]any
	// Owner is the cluster of ropes that the samples belong to: the value of
	// bootstrap.ClusterLabel on their namespaces. Empty labels none.
	Owner string
}

// apps are the samples, each of which is chart, release and namespace of that name.
func apps() []app {
	return []app{
		{name: "bookinfo", injection: "enabled"},
		{name: "httpbin", injection: "enabled"},
		{name: "client", injection: "enabled"},
		{name: "outside", injection: "disabled"},
	}
}

type app struct {
	name      string
	injection string // of sidecars into the app's namespace: enabled or disabled
}

// Namespaces are those that Install puts objects into.
func Namespaces() []string {
	var names []string
	for _, a := range apps() {
		names = append(names, a.name)
	}
	return names
}

func (a app) release(cfg Config) (helm.Release, error) {
	labels := namespaces.Labels(part, cfg.Owner)
	labels["istio-injection"] = a.injection
	chart, err := fs.Sub(charts.FS, a.name)
	if err != nil {
		return helm.Release{}, fmt.Errorf("find chart %s: %w", a.name, err)
	}
	return helm.Release{
		Name:      a.name,
		Namespace: a.name,
		Labels:    labels,
		Chart:     chart,
		Values:    cfg.Values[a.name],
	}, nil
}

// Install brings all samples to what cfg asks for and returns once they are rolled out.
// Where that is so already it asks a few questions and changes nothing. say, which must
// not be nil, is told what is waited for.
//
// When ctx ends first, the error wraps its cause and names what was not ready and why.
// What was installed stays.
func Install(ctx context.Context, cfg Config, say func(string)) error {
	releases, err := helm.New(cfg.Kubeconfig, cfg.Log)
	if err != nil {
		return err
	}
	client, err := kubeclient.New(cfg.Kubeconfig)
	if err != nil {
		return err
	}
	say("applying charts")
	// Every app is heard out: the first to fail is not always the one to blame.
	errs := make([]error, len(apps()))
	found := make([][]rollout.Deployment, len(apps()))
	var running sync.WaitGroup
	for i, a := range apps() {
		running.Go(func() {
			rel, err := a.release(cfg)
			if err == nil {
				found[i], err = releases.Apply(ctx, rel)
			}
			errs[i] = err
		})
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := rollout.Wait(ctx, client, slices.Concat(found...), say); err != nil {
		return fmt.Errorf("wait for the sample apps: %w", err)
	}
	return nil
}

// Status reports how far the samples' Deployments are. Samples that are not there are not
// an error: their Deployments are reported as missing.
func Status(ctx context.Context, cfg Config) ([]rollout.State, error) {
	var want []rollout.Deployment
	for _, a := range apps() {
		rel, err := a.release(cfg)
		if err != nil {
			return nil, err
		}
		found, err := helm.Deployments(rel)
		if err != nil {
			return nil, err
		}
		want = append(want, found...)
	}
	client, err := kubeclient.New(cfg.Kubeconfig)
	if err != nil {
		return nil, err
	}
	return rollout.Inspect(ctx, client, want)
}

// pageTimeout bounds one look at the product page.
const pageTimeout = 5 * time.Second

// Open asks for Bookinfo's product page at url as a browser would. It returns nil where the
// page comes with all its parts, and else says what came.
func Open(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Close = true // the next one is to find its way by itself
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return fmt.Errorf("read %s: %w", url, err)
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answers %s", url, res.Status)
	case !bytes.Contains(page, []byte("Served by <code>productpage</code>")):
		return fmt.Errorf("%s is somebody else's", url)
	}
	if missing := unavailable.Find(page); missing != nil {
		return fmt.Errorf("%s says: %s", url, missing)
	}
	return nil
}

// unavailable is how the product page says that it could not get one of its parts.
var unavailable = regexp.MustCompile(`[^>.]*currently unavailable`)

// Uninstall removes the samples and the namespaces that Install made, with all that is in
// them, and returns when they are gone. Samples that are not there are not an error.
func Uninstall(ctx context.Context, cfg Config, say func(string)) error {
	releases, err := helm.New(cfg.Kubeconfig, cfg.Log)
	if err != nil {
		return err
	}
	client, err := kubeclient.New(cfg.Kubeconfig)
	if err != nil {
		return err
	}
	ours := namespaces.Selector(part, cfg.Owner)
	list, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: ours})
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	for _, a := range slices.Backward(apps()) {
		if !slices.ContainsFunc(list.Items, func(ns corev1.Namespace) bool { return ns.Name == a.name }) {
			continue
		}
		say("removing " + a.name)
		if err := releases.Uninstall(ctx, a.name, a.name); err != nil {
			return err
		}
	}
	return namespaces.Remove(ctx, client, ours, say)
}
