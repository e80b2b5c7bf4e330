package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// The bounds of a restoration.
const (
	restoreTimeout = time.Minute            // all of it
	restorePoll    = 100 * time.Millisecond // between looks at what is still going
	stripAfter     = 2500 * time.Millisecond
)

// restorer brings a lab's objects back to a snapshot.
type restorer struct {
	inventorist
	say      func(string)
	deleted  map[key]bool
	restored map[key]bool
}

// restore brings the cluster back to snap and proves it: it returns only when a fresh
// inventory has exactly the recorded digests, or with ErrNotAtRest and what differs.
func (iv inventorist) restore(ctx context.Context, snap Snapshot, say func(string)) (ResetReport, error) {
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	r := &restorer{inventorist: iv, say: say, deleted: map[key]bool{}, restored: map[key]bool{}}
	start := time.Now()
	if err := r.converge(ctx, snap); err != nil {
		return ResetReport{}, fmt.Errorf("reset %s: %w", iv.lab.ID, err)
	}
	return ResetReport{
		Lab: iv.lab.ID, Deleted: names(r.deleted), Restored: names(r.restored),
		Objects: len(snap.Objects), Digest: snap.Digest, Took: time.Since(start),
	}, nil
}

func names(ks map[key]bool) []string {
	var sorted []key
	for k := range ks {
		sorted = append(sorted, k)
	}
	slices.SortFunc(sorted, compareKeys)
	out := []string{}
	for _, k := range sorted {
		out = append(out, k.String())
	}
	return out
}

// converge compares, deletes and restores until nothing differs. One round does it, unless
// something is in the way for a while: a namespace on its way out, a quota not yet counted
// again, a service account not yet made.
func (r *restorer) converge(ctx context.Context, snap Snapshot) error {
	var (
		began   = time.Now()
		lastErr error
	)
	for {
		inv, err := r.take(ctx)
		if err != nil {
			return errors.Join(err, lastErr)
		}
		diff, err := snap.compare(inv)
		if err != nil {
			return err
		}
		if diff.empty() && len(orphans(inv, nil)) == 0 && inv.proves(snap) {
			return nil
		}
		if ctx.Err() != nil {
			return notAtRest(diff, inv, lastErr)
		}
		r.log.Debug("reset", "lab", r.lab.ID, "after", time.Since(began), "differs", diff, "orphans", len(orphans(inv, diff.extra)), "err", lastErr)
		if lastErr = r.round(ctx, diff, inv, time.Since(began) > stripAfter); lastErr != nil {
			r.say("still in the way: " + lastErr.Error())
		}
		select {
		case <-ctx.Done():
			return notAtRest(diff, inv, lastErr)
		case <-time.After(restorePoll):
		}
	}
}

// proves computes the total digest of what is live and compares it with the recorded one.
func (inv *inventory) proves(snap Snapshot) bool {
	now, err := inv.snapshot()
	return err == nil && now.Digest == snap.Digest
}

func notAtRest(diff difference, inv *inventory, lastErr error) error {
	err := fmt.Errorf("%w: %v", ErrNotAtRest, diff)
	if o := orphans(inv, nil); len(o) > 0 {
		err = fmt.Errorf("%w, %d left-over dependents such as %v", err, len(o), keyOf(o[0]))
	}
	return errors.Join(err, lastErr)
}

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

// round does all that can be done at once: what is too much is deleted, then what is missing
// or changed is written, in the order in which things need each other.
func (r *restorer) round(ctx context.Context, diff difference, inv *inventory, strip bool) error {
	gone := append(slices.Clone(diff.extra), inv.users(diff.extra)...)
	gone = append(gone, orphans(inv, gone)...)
	err := r.deleteAll(ctx, gone, inv, strip)
	if err != nil {
		return err
	}
	for _, u := range diff.volumes {
		ri, err := r.client(u)
		if err == nil {
			_, err = ri.Update(ctx, u, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return fmt.Errorf("write back %s: %w", keyOf(u), err)
		}
		r.restored[keyOf(u)] = true
	}
	missing := map[key]bool{}
	for _, u := range diff.missing {
		missing[keyOf(u)] = true
	}
	write := slices.Concat(diff.missing, diff.changed)
	for _, stage := range stages(write) {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(parallel)
		for _, u := range stage {
			g.Go(func() error {
				if missing[keyOf(u)] {
					return r.create(gctx, u)
				}
				return r.writeBack(gctx, u)
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for _, u := range stage {
			r.restored[keyOf(u)] = true
		}
	}
	return nil
}

// stages parts objects by what has to be there first.
func stages(us []*unstructured.Unstructured) [][]*unstructured.Unstructured {
	out := make([][]*unstructured.Unstructured, 5)
	for _, u := range us {
		i := 2
		switch u.GetKind() {
		case "Namespace", "CustomResourceDefinition", "StorageClass", "PersistentVolume":
			i = 0
		case "ServiceAccount", "Secret", "ConfigMap", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding":
			i = 1
		case "Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob":
			i = 3
		case "ResourceQuota", "LimitRange": // the recorded pods were there when it came, or fit in
			i = 4
		}
		out[i] = append(out[i], u)
	}
	return out
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

func (r *restorer) client(u *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	return r.cluster.Resource(u.GetAPIVersion(), u.GetKind(), u.GetNamespace())
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

// create makes a recorded object anew.
func (r *restorer) create(ctx context.Context, rec *unstructured.Unstructured) error {
	ri, err := r.client(rec)
	if err != nil {
		return err
	}
	_, err = ri.Create(ctx, creatable(rec), metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create %s: %w", keyOf(rec), err)
	}
	return nil
}

// writeBack gives a changed object its recorded content; one that cannot be changed so is
// deleted, and the next round makes it anew.
func (r *restorer) writeBack(ctx context.Context, rec *unstructured.Unstructured) error {
	ri, err := r.client(rec)
	if err != nil {
		return err
	}
	live, err := ri.Get(ctx, rec.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil // the next round makes it
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", keyOf(rec), err)
	}
	if rec.GetKind() == "Pod" {
		return r.delete(ctx, live, false)
	}
	u := overlay(rec, live)
	_, err = ri.Update(ctx, u, metav1.UpdateOptions{})
	switch {
	case (apierrors.IsInvalid(err) || apierrors.IsForbidden(err)) && rec.GetKind() != "Namespace":
		return r.delete(ctx, live, false)
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return nil // somebody was faster; the next round looks again
	case err != nil:
		return fmt.Errorf("write back %s: %w", keyOf(rec), err)
	}
	return nil
}

// overlay is the record with what the live object's identity and controllers need kept.
func overlay(rec, live *unstructured.Unstructured) *unstructured.Unstructured {
	u := rec.DeepCopy()
	u.SetResourceVersion(live.GetResourceVersion())
	u.SetUID(live.GetUID())
	u.SetOwnerReferences(live.GetOwnerReferences())
	finalizers := u.GetFinalizers()
	for _, f := range live.GetFinalizers() {
		if isSystemFinalizer(f) {
			finalizers = append(finalizers, f)
		}
	}
	u.SetFinalizers(finalizers)
	ann := u.GetAnnotations()
	for k, v := range live.GetAnnotations() {
		if slices.Contains(controllerAnnotations, k) {
			if ann == nil {
				ann = map[string]string{}
			}
			ann[k] = v
		}
	}
	u.SetAnnotations(ann)
	switch u.GetKind() {
	case "Namespace":
		u.Object["spec"] = live.Object["spec"]
	case "PersistentVolumeClaim":
		if v, ok, _ := unstructured.NestedString(live.Object, "spec", "volumeName"); ok && v != "" {
			_ = unstructured.SetNestedField(u.Object, v, "spec", "volumeName")
		}
	case "PersistentVolume":
		if uid, ok, _ := unstructured.NestedString(live.Object, "spec", "claimRef", "uid"); ok && sameClaim(rec, live) {
			_ = unstructured.SetNestedField(u.Object, uid, "spec", "claimRef", "uid")
		}
	}
	return u
}

func sameClaim(a, b *unstructured.Unstructured) bool {
	for _, f := range []string{"namespace", "name"} {
		x, _, _ := unstructured.NestedString(a.Object, "spec", "claimRef", f)
		y, _, _ := unstructured.NestedString(b.Object, "spec", "claimRef", f)
		if x == "" || x != y {
			return false
		}
	}
	return true
}
