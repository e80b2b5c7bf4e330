package istio

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"istio.io/istio/operator/pkg/install"
	"istio.io/istio/operator/pkg/util/progress"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/ropes-dev/ropes/bootstrap/kubeclient"
	"github.com/ropes-dev/ropes/bootstrap/namespaces"
	"github.com/ropes-dev/ropes/bootstrap/rollout"
)

const (
	// part marks the namespaces that we made, for Uninstall.
	part = "istio"
	// digestAnnotation, on the system namespace, says what was last applied in full.
	digestAnnotation = "ropes.dev/istio-digest"
	fieldManager     = "ropes"

	// rootCert is the ConfigMap that istiod puts into every namespace and proxies mount.
	rootCert = "istio-ca-root-cert"
)

// Install brings the mesh to what cfg asks for, and returns once istiod and both gateways
// are rolled out. Where that is so already it asks a few questions and changes nothing; an
// installation that was cut off is gone over again. say, which must not be nil, is told what is waited for.
//
// When ctx ends first, the error wraps its cause and says which pod and container was not
// ready and why. What was applied stays.
func Install(ctx context.Context, cfg Config, say func(string)) error {
	cfg = cfg.withDefaults()
	client, err := kubeclient.New(cfg.Kubeconfig)
	if err != nil {
		return err
	}
	digest, err := cfg.digest()
	if err != nil {
		return err
	}
	installed, err := isInstalled(ctx, client, digest)
	if err != nil {
		return err
	}
	if !installed {
		if err := cfg.apply(ctx, client, digest, say); err != nil {
			return fmt.Errorf("install Istio: %w", err)
		}
	}
	if err := rollout.Wait(ctx, client, deployments(), say); err != nil {
		return fmt.Errorf("wait for Istio: %w", err)
	}
	return nil
}

// isInstalled tells whether the same settings were applied before, and none of the
// Deployments has been deleted since.
func isInstalled(ctx context.Context, client kubernetes.Interface, digest string) (bool, error) {
	ns, err := client.CoreV1().Namespaces().Get(ctx, SystemNamespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("get namespace %s: %w", SystemNamespace, err)
	}
	if ns.Annotations[digestAnnotation] != digest || ns.DeletionTimestamp != nil {
		return false, nil
	}
	for _, ref := range deployments() {
		_, err := client.AppsV1().Deployments(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("get deployment %s: %w", ref, err)
		}
	}
	return true, nil
}

// apply renders and applies everything, gateways after istiod has a root certificate.
func (c Config) apply(ctx context.Context, client kubernetes.Interface, digest string, say func(string)) error {
	say("making namespaces")
	for _, ns := range Namespaces() {
		if err := c.makeNamespace(ctx, client, ns); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	// While the operator works, somebody has to tell what istiod is waiting for, and to
	// know it if the time runs out.
	told := make(chan error, 1)
	go func() { told <- rollout.Wait(ctx, client, deployments(), say) }()
	open := make(chan struct{})
	published := make(chan error, 1)
	go func() {
		err := waitForRootCert(ctx, client, IngressNamespace, EgressNamespace)
		if err == nil {
			close(open)
		}
		published <- err
	}()

	err := quietly(func() error { return c.runInstaller(ctx, open) })
	expired := errors.Is(ctx.Err(), context.DeadlineExceeded)
	if err != nil {
		cancel()
	}
	<-published
	cancel()
	waited := <-told
	switch {
	case err != nil && expired && waited != nil:
		return waited
	case err != nil:
		return err
	}
	return c.stamp(context.WithoutCancel(ctx), client, digest)
}

// runInstaller has the operator render and apply. It does not wait for readiness.
func (c Config) runInstaller(ctx context.Context, open <-chan struct{}) error {
	cli, err := newClient(ctx, c.Kubeconfig, func(next http.RoundTripper) http.RoundTripper {
		return gatewaysLast{next: next, open: open}
	})
	if err != nil {
		return err
	}
	defer cli.Shutdown()
	sets, merged, err := c.render(cli)
	if err != nil {
		return err
	}
	return withProgress(c.Log, func(p *progress.Log) error {
		err := install.Installer{
			SkipWait:       true,
			Kube:           cli,
			Values:         merged,
			Logger:         newLogger(c.Log),
			ProgressLogger: p,
		}.InstallManifests(sets)
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	})
}

// stampTimeout bounds the last request of an installation, which is made even if the
// time for the whole is up.
const stampTimeout = 5 * time.Second

// stamp records that all of digest has been applied.
func (c Config) stamp(ctx context.Context, client kubernetes.Interface, digest string) error {
	ctx, cancel := context.WithTimeout(ctx, stampTimeout)
	defer cancel()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, digestAnnotation, digest)
	_, err := client.CoreV1().Namespaces().Patch(ctx, SystemNamespace, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "ropes-digest"})
	if err != nil {
		return fmt.Errorf("annotate namespace %s: %w", SystemNamespace, err)
	}
	return nil
}

// makeNamespace makes a namespace of ours. One that somebody else made stays theirs.
func (c Config) makeNamespace(ctx context.Context, client kubernetes.Interface, name string) error {
	_, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("get namespace %s: %w", name, err)
	}
	ns := applycorev1.Namespace(name).WithLabels(namespaces.Labels(part, c.Owner))
	if name == SystemNamespace {
		before, err := gatewayClasses(ctx, client)
		if err != nil {
			return err
		}
		ns.WithAnnotations(map[string]string{classesAnnotation: strings.Join(before, " ")})
	}
	if _, err := client.CoreV1().Namespaces().Apply(ctx, ns, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return fmt.Errorf("make namespace %s: %w", name, err)
	}
	return nil
}

// waitForRootCert returns once istiod has published its root certificate in the namespaces.
func waitForRootCert(ctx context.Context, client kubernetes.Interface, namespaces ...string) error {
	for _, ns := range namespaces {
		lw := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "configmaps", ns, fields.OneTermEqualSelector("metadata.name", rootCert))
		_, err := watchtools.UntilWithSync(ctx, lw, &corev1.ConfigMap{}, nil, func(e watch.Event) (bool, error) {
			return e.Type == watch.Added || e.Type == watch.Modified, nil
		})
		if err != nil {
			return fmt.Errorf("watch for %s/%s: %w", ns, rootCert, err)
		}
	}
	return nil
}
