package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/labs"
)

// parallel is how many requests an inventory or a reset has under way at a time. It is high
// because a list mostly waits: the API server lets it until its cache is known to be fresh.
const parallel = 100

// key names an object across its versions and lives.
type key struct {
	group, kind, namespace, name string
}

func keyOf(u *unstructured.Unstructured) key {
	gk := u.GroupVersionKind().GroupKind()
	return key{gk.Group, gk.Kind, u.GetNamespace(), u.GetName()}
}

func (k key) String() string {
	if k.namespace == "" {
		return k.kind + " " + k.name
	}
	return k.kind + " " + k.namespace + "/" + k.name
}

// compareKeys orders objects for people: by namespace, then kind, then name.
func compareKeys(a, b key) int {
	return strings.Compare(a.namespace+"/"+a.kind+"/"+a.name+"/"+a.group, b.namespace+"/"+b.kind+"/"+b.name+"/"+b.group)
}

// inventory is what a lab has in the cluster at one time.
type inventory struct {
	namespaces map[string]*unstructured.Unstructured // of those that the lab lists, the ones that are there
	objects    map[key]*unstructured.Unstructured    // what somebody made, as live
	dependents []*unstructured.Unstructured          // what controllers made for objects: theirs to keep and to remove
	volumes    map[key]*unstructured.Unstructured    // of the dependents, the provisioned volume of each claim
	uids       map[types.UID]bool                    // of all objects and dependents
}

// inventorist takes inventories of one lab.
type inventorist struct {
	cluster *checks.Cluster
	lab     *labs.Lab
	own     bool // the cluster is ropes' own, with one API server
	log     *slog.Logger
}

// take lists all listable and deletable kinds in the lab's namespaces, and the lab's
// cluster-scoped objects.
func (iv inventorist) take(ctx context.Context) (*inventory, error) {
	namespaced, global, err := iv.kinds()
	if err != nil {
		return nil, err
	}
	inv := &inventory{
		namespaces: map[string]*unstructured.Unstructured{}, objects: map[key]*unstructured.Unstructured{}, uids: map[types.UID]bool{},
		volumes: map[key]*unstructured.Unstructured{},
	}
	for _, ns := range iv.lab.Namespaces {
		u, err := iv.cluster.Dynamic.Resource(namespacesGVR).Get(ctx, ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read namespace %s: %w", ns, err)
		}
		inv.namespaces[ns] = u
	}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	list := func(r resource, ns string, opts metav1.ListOptions, keep func(*unstructured.Unstructured) (bool, error)) {
		g.Go(func() error {
			items, err := iv.list(gctx, r, ns, opts)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for i := range items {
				u := &items[i]
				ok, err := keep(u)
				if err != nil {
					return err
				}
				if ok {
					inv.add(u)
				}
			}
			return nil
		})
	}
	all := func(*unstructured.Unstructured) (bool, error) { return true, nil }
	for ns := range inv.namespaces {
		for _, r := range namespaced {
			list(r, ns, metav1.ListOptions{}, all)
		}
	}
	for _, r := range global {
		list(r, "", metav1.ListOptions{LabelSelector: labs.LabLabel + "=" + iv.lab.ID}, all)
	}
	for _, o := range iv.lab.Owns {
		if r, ok := find(global, o); ok {
			list(r, "", metav1.ListOptions{}, func(u *unstructured.Unstructured) (bool, error) { return owns(o, u) })
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	inv.setAsideProvisioned()
	return inv, nil
}

// add sorts an object in among what somebody made and what a controller made.
func (inv *inventory) add(u *unstructured.Unstructured) {
	if isFurniture(u) {
		return
	}
	inv.uids[u.GetUID()] = true
	if metav1.GetControllerOf(u) != nil {
		inv.dependents = append(inv.dependents, u)
		return
	}
	inv.objects[keyOf(u)] = u
}

// setAsideProvisioned treats volumes that a provisioner made for a living claim as the
// claim's dependents: they come and go with it.
func (inv *inventory) setAsideProvisioned() {
	for k, u := range inv.objects {
		if k.kind != "PersistentVolume" || u.GetAnnotations()["pv.kubernetes.io/provisioned-by"] == "" {
			continue
		}
		ns, _, _ := unstructured.NestedString(u.Object, "spec", "claimRef", "namespace")
		name, _, _ := unstructured.NestedString(u.Object, "spec", "claimRef", "name")
		uid, _, _ := unstructured.NestedString(u.Object, "spec", "claimRef", "uid")
		of := key{"", "PersistentVolumeClaim", ns, name}
		claim := inv.objects[of]
		if claim != nil && string(claim.GetUID()) == uid && claim.GetDeletionTimestamp() == nil {
			delete(inv.objects, k)
			inv.dependents = append(inv.dependents, u)
			inv.volumes[of] = u
		}
	}
}

// isFurniture recognises what every namespace is given and gets back on its own.
func isFurniture(u *unstructured.Unstructured) bool {
	switch u.GetKind() {
	case "ConfigMap":
		return u.GetName() == "kube-root-ca.crt" || u.GetName() == "istio-ca-root-cert" || u.GetName() == "istio-ca-crl"
	case "Secret":
		t, _, _ := unstructured.NestedString(u.Object, "type")
		return t == "kubernetes.io/service-account-token" && u.GetAnnotations()["kubernetes.io/service-account.name"] == "default"
	case "ServiceAccount":
		return u.GetName() == "default" && !defaultAccountChanged(u)
	}
	return false
}

// defaultAccountChanged tells whether somebody made more of the default service account.
func defaultAccountChanged(u *unstructured.Unstructured) bool {
	return len(u.GetLabels()) > 0 || u.Object["imagePullSecrets"] != nil || u.Object["automountServiceAccountToken"] != nil
}

// owns tells whether a cluster-scoped object belongs to the lab by what lab.yaml says.
func owns(o labs.Owned, u *unstructured.Unstructured) (bool, error) {
	if slices.Contains(o.Names, u.GetName()) {
		return true, nil
	}
	if !o.Where.Present() {
		return false, nil
	}
	v, err := o.Where.Program.Eval(map[string]any{"object": u.Object})
	if errors.Is(err, checks.ErrAbsent) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", o.Where.Pos, err)
	}
	return v == true, nil
}

// resource is a kind that can be listed and deleted.
type resource struct {
	gvr        schema.GroupVersionResource
	kind       string
	namespaced bool
	creatable  bool
	collection bool // all of a namespace can be deleted at once
}

var namespacesGVR = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}

// passedOver are kinds that report on other objects or are the cluster's own.
var passedOver = map[schema.GroupResource]bool{
	{Resource: "events"}:                                     true,
	{Group: "events.k8s.io", Resource: "events"}:             true,
	{Resource: "endpoints"}:                                  true,
	{Group: "discovery.k8s.io", Resource: "endpointslices"}:  true,
	{Group: "coordination.k8s.io", Resource: "leases"}:       true,
	{Group: "apps", Resource: "controllerrevisions"}:         true,
	{Resource: "namespaces"}:                                 true, // treated on their own
	{Resource: "nodes"}:                                      true,
	{Group: "storage.k8s.io", Resource: "csinodes"}:          true,
	{Group: "storage.k8s.io", Resource: "volumeattachments"}: true,
}

// kinds are what an inventory lists. It asks the API server afresh: a lab may bring its own.
func (iv inventorist) kinds() (namespaced, global []resource, err error) {
	iv.cluster.Discovery.Invalidate()
	all, err := iv.discover()
	for _, r := range all {
		switch {
		case passedOver[r.gvr.GroupResource()] || !r.creatable:
		case r.namespaced:
			namespaced = append(namespaced, r)
		default:
			global = append(global, r)
		}
	}
	return namespaced, global, err
}

// everyNamespaced is all that can be found and deleted in a namespace.
func (iv inventorist) everyNamespaced() ([]resource, error) {
	all, err := iv.discover()
	return slices.DeleteFunc(all, func(r resource) bool {
		return !r.namespaced || r.gvr.Group == "events.k8s.io" // the same events as those of the core group
	}), err
}

func (iv inventorist) discover() ([]resource, error) {
	lists, err := iv.cluster.Discovery.ServerPreferredResources()
	var partial *discovery.ErrGroupDiscoveryFailed
	if errors.As(err, &partial) {
		for gv := range partial.Groups {
			if strings.HasSuffix(gv.Group, "metrics.k8s.io") {
				delete(partial.Groups, gv) // nothing in it can be deleted, and its server is often late
			}
		}
		if len(partial.Groups) == 0 {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("discover kinds: %w", err)
	}
	var out []resource
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("discover kinds: %w", err)
		}
		for _, r := range l.APIResources {
			gvr := gv.WithResource(r.Name)
			if r.Group != "" || r.Version != "" {
				gvr.Group, gvr.Version = r.Group, r.Version
			}
			can := func(verb string) bool { return slices.Contains(r.Verbs, verb) }
			if !strings.Contains(r.Name, "/") && can("list") && can("delete") {
				out = append(out, resource{gvr, r.Kind, r.Namespaced, can("create"), can("deletecollection")})
			}
		}
	}
	return out, nil
}

func find(rs []resource, o labs.Owned) (resource, bool) {
	gv, err := schema.ParseGroupVersion(o.APIVersion)
	if err != nil {
		return resource{}, false
	}
	for _, r := range rs {
		if r.kind == o.Kind && r.gvr.Group == gv.Group {
			return r, true
		}
	}
	return resource{}, false
}

func (iv inventorist) list(ctx context.Context, r resource, ns string, opts metav1.ListOptions) ([]unstructured.Unstructured, error) {
	ri := iv.cluster.Dynamic.Resource(r.gvr)
	l, err := ri.Namespace(ns).List(ctx, opts)
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return nil, nil // the kind went while it was asked for
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", r.gvr.Resource, err)
	}
	gvk := r.gvr.GroupVersion().WithKind(r.kind)
	for i := range l.Items {
		l.Items[i].SetGroupVersionKind(gvk)
	}
	return l.Items, nil
}
