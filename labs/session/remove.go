package session

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// orphans are the dependents that go with what is deleted or already gone, down to the last
// generation, and pods on their way out: volumes and quotas are held by them.
func orphans(inv *inventory, extra []*unstructured.Unstructured) []*unstructured.Unstructured {
	gone := map[types.UID]bool{}
	for _, u := range extra {
		gone[u.GetUID()] = true
	}
	var out []*unstructured.Unstructured
	for again := true; again; {
		again = false
		for _, u := range inv.dependents {
			if !gone[u.GetUID()] && inv.orphaned(u, gone) {
				gone[u.GetUID()] = true
				out = append(out, u)
				again = true
			}
		}
	}
	return out
}

// users are the pods that use claims which are deleted: they hold the claim, and one that ran
// on would never look at the claim that takes its place.
func (inv *inventory) users(extra []*unstructured.Unstructured) []*unstructured.Unstructured {
	claims := map[key]bool{}
	for _, u := range extra {
		if k := keyOf(u); k.kind == "PersistentVolumeClaim" {
			claims[k] = true
		}
	}
	var out []*unstructured.Unstructured
	for _, u := range slices.Concat(slices.Collect(maps.Values(inv.objects)), inv.dependents) {
		if u.GetKind() != "Pod" || slices.Contains(extra, u) {
			continue
		}
		volumes, _, _ := unstructured.NestedSlice(u.Object, "spec", "volumes")
		if slices.ContainsFunc(volumes, func(v any) bool {
			m, _ := v.(map[string]any)
			name, _, _ := unstructured.NestedString(m, "persistentVolumeClaim", "claimName")
			return claims[key{"", "PersistentVolumeClaim", u.GetNamespace(), name}]
		}) {
			out = append(out, u)
		}
	}
	return out
}

func (inv *inventory) orphaned(u *unstructured.Unstructured, gone map[types.UID]bool) bool {
	if u.GetKind() == "Pod" && u.GetDeletionTimestamp() != nil {
		return true
	}
	c := metav1.GetControllerOf(u)
	if c == nil || inv.namespaces[u.GetNamespace()] == nil {
		return false // a controller outside of the lab's namespaces was not looked for
	}
	return gone[c.UID] || !inv.uids[c.UID]
}

// deleteAll deletes objects, and then namespaces.
func (r *restorer) deleteAll(ctx context.Context, gone []*unstructured.Unstructured, inv *inventory, strip bool) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	var spaces []*unstructured.Unstructured
	for _, u := range gone {
		if u.GetKind() == "Namespace" && u.GroupVersionKind().Group == "" {
			spaces = append(spaces, u)
			continue
		}
		g.Go(func() error { return r.delete(gctx, u, strip) })
		if metav1.GetControllerOf(u) == nil {
			r.deleted[keyOf(u)] = true
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	g, gctx = errgroup.WithContext(ctx)
	for _, u := range spaces {
		g.Go(func() error { return r.deleteNamespace(gctx, u, inv) })
		r.deleted[keyOf(u)] = true
	}
	return g.Wait()
}

// deleteNamespace brings a namespace a step nearer to its end. On a cluster that is not
// ropes' own it waits until nothing else is left in it: the namespace controller ends an empty
// one at its first look, a full one only some looks later.
func (r *restorer) deleteNamespace(ctx context.Context, ns *unstructured.Unstructured, inv *inventory) error {
	if !r.own && (ns.GetDeletionTimestamp() != nil || inv.holds(ns.GetName())) {
		return nil
	}
	if ns.GetDeletionTimestamp() == nil {
		if err := r.delete(ctx, ns, false); err != nil {
			return err
		}
	}
	if !r.own {
		return nil
	}
	return r.finalize(ctx, ns.GetName())
}

// holds tells whether a namespace had anything in it.
func (inv *inventory) holds(ns string) bool {
	for k := range inv.objects {
		if k.namespace == ns {
			return true
		}
	}
	return slices.ContainsFunc(inv.dependents, func(u *unstructured.Unstructured) bool { return u.GetNamespace() == ns })
}

// delete deletes u, pods without grace. Finalizers are taken off only where strip says that
// the deletion hangs.
func (r *restorer) delete(ctx context.Context, u *unstructured.Unstructured, strip bool) error {
	ri, err := r.client(u)
	if err != nil {
		return err
	}
	if !strip && awaitsProvisioner(u) {
		return r.handToProvisioner(ctx, ri, u)
	}
	background, now, uid := metav1.DeletePropagationBackground, int64(0), u.GetUID()
	opts := metav1.DeleteOptions{PropagationPolicy: &background, Preconditions: &metav1.Preconditions{UID: &uid}}
	if u.GetKind() == "Pod" {
		opts.GracePeriodSeconds = &now
	}
	err = ri.Delete(ctx, u.GetName(), opts)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone, or another one by now
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", keyOf(u), err)
	}
	if strip && u.GetDeletionTimestamp() != nil && len(u.GetFinalizers()) > 0 {
		r.say(fmt.Sprintf("deletion of %s hangs on finalizers %v, taking them off", keyOf(u), u.GetFinalizers()))
		return r.stripFinalizers(ctx, ri, u)
	}
	return nil
}

// awaitsProvisioner recognises a volume whose claim is gone and whose data its provisioner
// can remove. Deleting only the object would leave the data on the node.
func awaitsProvisioner(u *unstructured.Unstructured) bool {
	phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
	return u.GetKind() == "PersistentVolume" && u.GetAnnotations()["pv.kubernetes.io/provisioned-by"] != "" &&
		(phase == "Released" || phase == "Bound")
}

// handToProvisioner lets the provisioner delete a volume with its data, also a retained one:
// the lab's learner is done with it.
func (r *restorer) handToProvisioner(ctx context.Context, ri dynamic.ResourceInterface, u *unstructured.Unstructured) error {
	if policy, _, _ := unstructured.NestedString(u.Object, "spec", "persistentVolumeReclaimPolicy"); policy == "Delete" {
		return nil
	}
	patch := []byte(`{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`)
	if _, err := ri.Patch(ctx, u.GetName(), types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("hand %s to its provisioner: %w", keyOf(u), err)
	}
	return nil
}

func (r *restorer) stripFinalizers(ctx context.Context, ri dynamic.ResourceInterface, u *unstructured.Unstructured) error {
	live, err := ri.Get(ctx, u.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && live.GetUID() != u.GetUID() {
		return nil
	}
	if err == nil {
		live.SetFinalizers(nil)
		_, err = ri.Update(ctx, live, metav1.UpdateOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("take finalizers off %s: %w", keyOf(u), err)
	}
	return nil
}
