package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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
