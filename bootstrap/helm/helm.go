// Package helm installs, inspects and removes Helm releases of charts that are at hand as
// files, through Helm's own library. It knows releases, their namespaces and how one that
// was cut off is taken up again. It does not know what the charts are for, fetches no
// chart from anywhere, and reads no file of Helm's under the home directory.
package helm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/ropes-dev/ropes/bootstrap/rollout"
)

// Release says what is to be installed.
type Release struct {
	Name      string
	Namespace string            // made where it is missing
	Labels    map[string]string // of the namespace
	Chart     fs.FS             // Chart.yaml lies at its root
	Values    map[string]any    // over the chart's own; may be nil
}

const (
	// digestLabel, on the release, stands for the chart and values it was made from.
	digestLabel = "ropes.dev/digest"
	// digestLength keeps a digest, in hexadecimal, within a label's 63 bytes.
	digestLength = 40
	// fieldManager signs what we do ourselves, which is the namespaces.
	fieldManager = "ropes"
	// maxHistory is how many revisions of a release are kept.
	maxHistory = 3
)

// Client works on one cluster. It asks the cluster once which kinds of objects it has, so
// a Client is made after the CRDs that the charts need. It is safe for several goroutines.
type Client struct {
	kube   kubernetes.Interface
	log    *slog.Logger
	config func(namespace string) (*action.Configuration, error)
}

// New makes a Client from a self-contained kubeconfig, whose current context is the
// cluster. Helm's own words go to log; nil discards them.
func New(kubeconfig []byte, log *slog.Logger) (*Client, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	cluster, err := newCluster(kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(cluster.rest)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	capabilities := sync.OnceValues(func() (*chartutil.Capabilities, error) { return capabilitiesOf(cluster.discovery) })
	return &Client{kube: client, log: log, config: func(namespace string) (*action.Configuration, error) {
		found, err := capabilities()
		if err != nil {
			return nil, err
		}
		// Helm would ask for these again for every release.
		config := &action.Configuration{Capabilities: found}
		debug := func(format string, v ...any) { log.Debug(strings.TrimSpace(fmt.Sprintf(format, v...))) }
		if err := config.Init(getter{cluster: cluster, namespace: namespace}, namespace, "secret", debug); err != nil {
			return nil, fmt.Errorf("set up Helm: %w", err)
		}
		return config, nil
	}}, nil
}

// Install brings the release to what rel asks for, as Apply does, and returns once its
// Deployments are rolled out. say, which must not be nil, is told what is waited for.
//
// When ctx ends first, the error wraps its cause and says which pod and container was not
// ready and why. The release stays.
func (c *Client) Install(ctx context.Context, rel Release, say func(string)) error {
	say("applying chart " + rel.Name)
	deployments, err := c.Apply(ctx, rel)
	if err != nil {
		return err
	}
	if err := rollout.Wait(ctx, c.kube, deployments, say); err != nil {
		return fmt.Errorf("wait for release %s: %w", rel.Name, err)
	}
	return nil
}

// Apply brings the release to what rel asks for and names its Deployments, without waiting
// for them. A release that is deployed from the same chart and values, none of whose
// objects is missing, is left alone. One that a killed process left pending is taken up:
// nothing else may be working on it.
func (c *Client) Apply(ctx context.Context, rel Release) ([]rollout.Deployment, error) {
	done, err := c.apply(ctx, rel)
	if err != nil {
		return nil, fmt.Errorf("install release %s: %w", rel.Name, err)
	}
	return deploymentsIn(done.Manifest, rel.Namespace), nil
}

func (c *Client) apply(ctx context.Context, rel Release) (*release.Release, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	loaded, err := load(rel.Chart)
	if err != nil {
		return nil, err
	}
	digest, err := digestOf(loaded, rel.Values)
	if err != nil {
		return nil, err
	}
	config, err := c.config(rel.Namespace)
	if err != nil {
		return nil, err
	}
	last, err := settle(config, rel.Name)
	if err != nil {
		return nil, err
	}
	if last != nil && current(last, digest) && !missing(config.KubeClient, last.Manifest) {
		return last, nil
	}
	if err := c.makeNamespace(ctx, rel); err != nil {
		return nil, err
	}
	done, err := deploy(ctx, config, rel, loaded, digest, last != nil)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return done, err
}

// Uninstall removes the release and its objects, and reports no error where there is none.
// Its namespace stays.
func (c *Client) Uninstall(ctx context.Context, name, namespace string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	config, err := c.config(namespace)
	if err != nil {
		return err
	}
	if err := remove(config, name); err != nil {
		return fmt.Errorf("uninstall release %s: %w", name, err)
	}
	return nil
}

// Render returns the YAML documents that an installation of rel applies to a cluster of
// the Kubernetes version that this Helm knows. It asks no cluster.
func Render(rel Release) (string, error) {
	loaded, err := load(rel.Chart)
	if err != nil {
		return "", err
	}
	install := action.NewInstall(&action.Configuration{Log: func(string, ...any) {}})
	install.ClientOnly, install.DryRun = true, true
	install.ReleaseName, install.Namespace = rel.Name, rel.Namespace
	rendered, err := install.Run(loaded, rel.Values)
	if err != nil {
		return "", fmt.Errorf("render release %s: %w", rel.Name, err)
	}
	return rendered.Manifest, nil
}

// Deployments names the Deployments that rel consists of. It asks no cluster.
func Deployments(rel Release) ([]rollout.Deployment, error) {
	manifest, err := Render(rel)
	if err != nil {
		return nil, err
	}
	return deploymentsIn(manifest, rel.Namespace), nil
}

// settle returns the newest revision of a release, nil where there is none, after having
// ended what a killed process left in the middle.
func settle(config *action.Configuration, name string) (*release.Release, error) {
	last, err := config.Releases.Last(name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read its record: %w", err)
	}
	switch status := last.Info.Status; {
	case status.IsPending():
		// Helm goes on from a failed revision, and refuses to from a pending one.
		last.SetStatus(release.StatusFailed, "cut off while "+status.String())
		if err := config.Releases.Update(last); err != nil {
			return nil, fmt.Errorf("mark revision %d as failed: %w", last.Version, err)
		}
		return last, nil
	case status == release.StatusUninstalling || status == release.StatusUninstalled:
		return nil, remove(config, name)
	}
	return last, nil
}

// current tells whether a revision is deployed and made from the same chart and values.
func current(last *release.Release, digest string) bool {
	return last.Info.Status == release.StatusDeployed && last.Labels[digestLabel] == digest
}

// missing tells whether any object of a manifest is not in the cluster. Where that cannot
// be found out, applying the manifest again will say why.
func missing(client kube.Interface, manifest string) bool {
	objects, err := client.Build(bytes.NewBufferString(manifest), false)
	if err != nil {
		return true
	}
	return slices.ContainsFunc(objects, func(o *kubeObject) bool { return o.Get() != nil })
}

// deploy installs or upgrades, without waiting.
func deploy(ctx context.Context, config *action.Configuration, rel Release, loaded *chart.Chart, digest string, exists bool) (*release.Release, error) {
	labels := map[string]string{digestLabel: digest}
	if !exists {
		install := action.NewInstall(config)
		install.ReleaseName, install.Namespace = rel.Name, rel.Namespace
		install.Labels = labels
		// The API server validates what it is sent; fetching its schemas to do so as well takes seconds.
		install.DisableOpenAPIValidation = true
		return install.RunWithContext(ctx, loaded, rel.Values)
	}
	upgrade := action.NewUpgrade(config)
	upgrade.Namespace = rel.Namespace
	upgrade.Labels = labels
	upgrade.ResetValues = true
	upgrade.MaxHistory = maxHistory
	upgrade.DisableOpenAPIValidation = true
	return upgrade.RunWithContext(ctx, rel.Name, loaded, rel.Values)
}

func remove(config *action.Configuration, name string) error {
	uninstall := action.NewUninstall(config)
	uninstall.IgnoreNotFound = true
	_, err := uninstall.Run(name)
	return err
}

func (c *Client) makeNamespace(ctx context.Context, rel Release) error {
	ns := applycorev1.Namespace(rel.Namespace).WithLabels(rel.Labels)
	_, err := c.kube.CoreV1().Namespaces().Apply(ctx, ns, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	switch {
	case apierrors.IsConflict(err):
		return fmt.Errorf("make namespace %s, which is going: %w", rel.Namespace, err)
	case err != nil:
		return fmt.Errorf("make namespace %s: %w", rel.Namespace, err)
	}
	return nil
}

// load reads a chart.
func load(files fs.FS) (*chart.Chart, error) {
	var buffered []*loader.BufferedFile
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		buffered = append(buffered, &loader.BufferedFile{Name: path.Clean(name), Data: data})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read chart: %w", err)
	}
	loaded, err := loader.LoadFiles(buffered)
	if err != nil {
		return nil, fmt.Errorf("load chart: %w", err)
	}
	return loaded, nil
}

// digestOf stands for a chart and the values over it.
func digestOf(loaded *chart.Chart, values map[string]any) (string, error) {
	h := sha256.New()
	for _, f := range loaded.Raw {
		fmt.Fprintf(h, "%s %d\n%s", f.Name, len(f.Data), f.Data)
	}
	text, err := json.Marshal(values) // sorts the keys
	if err != nil {
		return "", fmt.Errorf("encode values: %w", err)
	}
	h.Write(text)
	return hex.EncodeToString(h.Sum(nil))[:digestLength], nil
}
