package istio

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"istio.io/istio/operator/pkg/manifest"
	"istio.io/istio/operator/pkg/uninstall"
	"istio.io/istio/pkg/config/schema/gvk"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/kubeclient"
	"github.com/ropes-dev/ropes/bootstrap/namespaces"
	"github.com/ropes-dev/ropes/bootstrap/rollout"
)

// Status reports how far istiod and the gateways are, istiod first. A mesh that is not
// there is not an error: its Deployments are reported as missing.
func Status(ctx context.Context, kubeconfig []byte) ([]rollout.State, error) {
	client, err := kubeclient.New(kubeconfig)
	if err != nil {
		return nil, err
	}
	return rollout.Inspect(ctx, client, deployments())
}

// Uninstall removes what Install applied: all objects that carry our IstioOperator's
// label, Istio's CRDs and with them every mesh resource that users made, the root
// certificates that istiod handed out, the gateway classes that it made, and the
// namespaces that Install made for cfg.Owner. It returns when the namespaces are gone. Uninstalling a mesh that is not there
// is not an error.
func Uninstall(ctx context.Context, cfg Config, say func(string)) error {
	cfg = cfg.withDefaults()
	cli, err := newClient(ctx, cfg.Kubeconfig, nil)
	if err != nil {
		return err
	}
	defer cli.Shutdown()
	system, err := cli.Kube().CoreV1().Namespaces().Get(ctx, SystemNamespace, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get namespace %s: %w", SystemNamespace, err)
	}
	if err == nil && cfg.Owner != "" && system.Labels[bootstrap.ClusterLabel] != cfg.Owner {
		return nil // somebody else's
	}

	selector := metav1.ListOptions{LabelSelector: manifest.OwningResourceName + "=" + owner + "," + manifest.OwningResourceNamespace + "=" + SystemNamespace}
	// Webhooks go first: nothing must be sent to an istiod that is no more.
	kinds := slices.Concat(uninstall.ClusterResources, uninstall.NamespacedResources())
	kinds = append(kinds, gvk.CustomResourceDefinition.Kubernetes())
	var errs []error
	say("removing Istio's objects")
	for _, kind := range kinds {
		resource, err := cli.DynamicClientFor(kind, nil, "")
		if err != nil {
			return fmt.Errorf("remove Istio: %w", err)
		}
		list, err := resource.List(ctx, selector)
		if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", kind.Kind, err)
		}
		for i := range list.Items {
			if err := uninstall.DeleteResource(cli, false, newLogger(cfg.Log), &list.Items[i]); err != nil {
				errs = append(errs, fmt.Errorf("delete %s %s: %w", kind.Kind, list.Items[i].GetName(), err))
			}
		}
	}
	errs = append(errs, removeRootCerts(ctx, cli.Kube()), namespaces.Remove(ctx, cli.Kube(), namespaces.Selector(part, cfg.Owner), say))
	if before, ok := system.Annotations[classesAnnotation]; ok {
		// Now that no istiod is left to make them again.
		errs = append(errs, removeGatewayClasses(ctx, cli.Kube(), strings.Fields(before)))
	}
	return errors.Join(errs...)
}

// rootCerts are the names of the ConfigMaps that istiod puts into namespaces (PILOT_CA_CERT_CONFIGMAP and
// PILOT_CRL_CONFIGMAP, which are left at their defaults here).
var rootCerts = []string{"istio-ca-root-cert", "istio-ca-crl"}

// removeRootCerts removes the ConfigMaps that istiod put into every namespace.
func removeRootCerts(ctx context.Context, client kubernetes.Interface) error {
	// The label alone does not do: it is what everybody may put on a ConfigMap for Istio.
	list, err := client.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{LabelSelector: "istio.io/config=true"})
	if err != nil {
		return fmt.Errorf("list root certificates: %w", err)
	}
	var errs []error
	for i := range list.Items {
		cm := &list.Items[i]
		if !slices.Contains(rootCerts, cm.Name) {
			continue
		}
		if err := client.CoreV1().ConfigMaps(cm.Namespace).Delete(ctx, cm.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete configmap %s/%s: %w", cm.Namespace, cm.Name, err))
		}
	}
	return errors.Join(errs...)
}
