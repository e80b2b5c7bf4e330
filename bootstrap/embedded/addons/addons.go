// Package addons puts ropes' add-ons into a cluster of its own: the storage
// provisioner and its classes, the network policy agent, metrics-server, and definitions
// that others rely on, such as the Gateway API's.
// It knows how manifests are applied and when what they start is ready; what the
// add-ons are is in the manifests, and how they work in packages of their own.
// CoreDNS and kube-proxy are kubeadm's add-ons and not among these.
package addons

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/ropes-dev/ropes/bootstrap/kubeclient"
	"github.com/ropes-dev/ropes/manifests"
)

// fieldManager owns the fields that Apply sets.
const fieldManager = "ropes"

// AddOn is one of the add-ons, by the name of its manifest.
type AddOn string

// NetworkPolicy is the agent that enforces NetworkPolicies. A cluster whose pod network
// does so itself goes without.
const NetworkPolicy AddOn = "20-network-policy.yaml"

// Apply puts the add-ons into the cluster that kubeconfig leads to, by server-side
// apply: what is there already and as it should be stays untouched, and what somebody
// has changed is changed back. say, which must not be nil, hears what is being applied.
// Apply does not wait for anything to start; Wait does. Those in without are left out.
func Apply(ctx context.Context, kubeconfig []byte, say func(string), without ...AddOn) error {
	objects, err := load(manifests.FS, without...)
	if err != nil {
		return err
	}
	client, mapper, err := clients(kubeconfig)
	if err != nil {
		return err
	}
	return apply(ctx, client, mapper, objects, say)
}

// Create makes those objects of the manifests in files that are not there yet, side by
// side: none may need another. What is there stays as it is, a learner's changes included.
func Create(ctx context.Context, kubeconfig []byte, files fs.FS, say func(string)) error {
	objects, err := load(files)
	if err != nil {
		return err
	}
	client, mapper, err := clients(kubeconfig)
	if err != nil {
		return err
	}
	return create(ctx, client, mapper, objects, say)
}

// creators bounds how many objects are made at the same time.
const creators = 4

func create(ctx context.Context, client dynamic.Interface, mapper meta.RESTMapper, objects []*unstructured.Unstructured, say func(string)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(creators)
	for _, o := range objects {
		say(describe(o))
		into, err := resource(client, mapper, o)
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		group.Go(func() error {
			_, err := into.Create(ctx, o, metav1.CreateOptions{FieldManager: fieldManager})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("create %s: %w", describe(o), err)
			}
			return nil
		})
	}
	return group.Wait()
}

func clients(kubeconfig []byte) (dynamic.Interface, meta.RESTMapper, error) {
	config, err := kubeclient.Config(kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("make a client: %w", err)
	}
	lister, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("make a client: %w", err)
	}
	return client, restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(lister)), nil
}

func apply(ctx context.Context, client dynamic.Interface, mapper meta.RESTMapper, objects []*unstructured.Unstructured, say func(string)) error {
	for _, o := range objects {
		say(describe(o))
		into, err := resource(client, mapper, o)
		if err != nil {
			return err
		}
		if _, err := into.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
			return fmt.Errorf("apply %s: %w", describe(o), err)
		}
	}
	return nil
}

// resource is where an object lives.
func resource(client dynamic.Interface, mapper meta.RESTMapper, o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := o.GroupVersionKind()
	mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, fmt.Errorf("apply %s: %w", describe(o), err)
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return client.Resource(mapping.Resource).Namespace(o.GetNamespace()), nil
	}
	return client.Resource(mapping.Resource), nil
}

// describe names an object as the learner would: DaemonSet ropes-system/ropes-volumes.
func describe(o *unstructured.Unstructured) string {
	if ns := o.GetNamespace(); ns != "" {
		return o.GetKind() + " " + ns + "/" + o.GetName()
	}
	return o.GetKind() + " " + o.GetName()
}

// load reads all objects of all files, those first that others need to be there.
func load(files fs.FS, without ...AddOn) ([]*unstructured.Unstructured, error) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	for _, name := range names {
		if slices.Contains(without, AddOn(name)) {
			continue
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		read, err := decode(data)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", name, err)
		}
		objects = append(objects, read...)
	}
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return cmp.Compare(rank(a), rank(b)) })
	return objects, nil
}

func decode(data []byte) (objects []*unstructured.Unstructured, err error) {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(&o.Object); err != nil {
			if errors.Is(err, io.EOF) {
				return objects, nil
			}
			return nil, err
		}
		if len(o.Object) == 0 {
			continue
		}
		if o.GetAPIVersion() == "" || o.GetKind() == "" || o.GetName() == "" {
			return nil, fmt.Errorf("object %d lacks apiVersion, kind or name", len(objects)+1)
		}
		objects = append(objects, o)
	}
}

// rank sorts what others live in or are made of to the front.
func rank(o *unstructured.Unstructured) int {
	switch o.GetKind() {
	case "Namespace":
		return 0
	case "CustomResourceDefinition":
		return 1
	case "ServiceAccount", "ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding":
		return 2
	default:
		return 3
	}
}
