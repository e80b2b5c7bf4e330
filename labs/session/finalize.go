package session

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// finalLooks is how often a namespace is looked through in one round.
const finalLooks = 5

// finalize ends a namespace that is on its way out: it deletes what is left of every kind
// and, once a look finds nothing any more, takes off the namespace's finalizer, as the
// namespace controller would. That one first waits 5 s, for the sake of clusters with several
// API servers; on ropes' own there is one. In a terminating namespace nothing can be created,
// so a kind that was found empty stays empty.
func (r *restorer) finalize(ctx context.Context, name string) error {
	ns, err := r.cluster.Dynamic.Resource(namespacesGVR).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read namespace %s: %w", name, err)
	}
	if ns.GetDeletionTimestamp() == nil {
		return nil // another one by now
	}
	kinds, err := r.everyNamespaced()
	if err != nil {
		return err
	}
	for range finalLooks {
		if kinds, err = r.empty(ctx, name, kinds); err != nil {
			return err
		}
		r.log.Debug("emptied", "namespace", name, "kinds", len(kinds))
		if len(kinds) == 0 {
			break
		}
	}
	if len(kinds) > 0 {
		return nil // something clings to it; the next round looks again
	}
	if err := unstructured.SetNestedSlice(ns.Object, []any{}, "spec", "finalizers"); err != nil {
		return fmt.Errorf("finalize %s: %w", keyOf(ns), err)
	}
	_, err = r.cluster.Dynamic.Resource(namespacesGVR).Update(ctx, ns, metav1.UpdateOptions{}, "finalize")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("finalize %s: %w", keyOf(ns), err)
	}
	return nil
}

// empty deletes all that it finds of some kinds in a namespace and returns the kinds of
// which it found any.
func (r *restorer) empty(ctx context.Context, ns string, kinds []resource) (found []resource, err error) {
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, kind := range kinds {
		g.Go(func() error {
			items, err := r.list(gctx, kind, ns, metav1.ListOptions{})
			if err != nil || len(items) == 0 {
				return err
			}
			mu.Lock()
			found = append(found, kind)
			mu.Unlock()
			now := int64(0)
			opts, ri := metav1.DeleteOptions{GracePeriodSeconds: &now}, r.cluster.Dynamic.Resource(kind.gvr).Namespace(ns)
			if kind.collection { // events come by the hundred
				if err := ri.DeleteCollection(gctx, opts, metav1.ListOptions{}); err != nil {
					return fmt.Errorf("delete all %s in %s: %w", kind.gvr.Resource, ns, err)
				}
				return nil
			}
			for i := range items {
				if err := ri.Delete(gctx, items[i].GetName(), opts); err != nil && !apierrors.IsNotFound(err) {
					return fmt.Errorf("delete %s: %w", keyOf(&items[i]), err)
				}
			}
			return nil
		})
	}
	return found, g.Wait()
}
