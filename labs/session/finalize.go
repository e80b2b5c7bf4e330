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

// finalize ends a namespace that is on its way out: it deletes what is left of every kind
// and, once a look finds nothing any more, takes off the namespace's finalizer, as the
// namespace controller would. That one first waits 5 s, for the sake of clusters with several
// API servers; on ropes' own there is one. In a terminating namespace nothing can be created,
// so what was found empty stays empty.
func (r *restorer) finalize(ctx context.Context, ns *unstructured.Unstructured) error {
	left, err := r.empty(ctx, ns.GetName())
	if err != nil || left > 0 {
		return err // the next round looks again
	}
	u := ns.DeepCopy()
	if err := unstructured.SetNestedSlice(u.Object, []any{}, "spec", "finalizers"); err != nil {
		return fmt.Errorf("finalize %s: %w", keyOf(ns), err)
	}
	_, err = r.cluster.Dynamic.Resource(namespacesGVR).Update(ctx, u, metav1.UpdateOptions{}, "finalize")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("finalize %s: %w", keyOf(ns), err)
	}
	return nil
}

// empty deletes all that it finds in a namespace and returns how much that was.
func (r *restorer) empty(ctx context.Context, ns string) (left int, err error) {
	all, err := r.everyNamespaced()
	if err != nil {
		return 0, err
	}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, kind := range all {
		g.Go(func() error {
			items, err := r.list(gctx, kind, ns, metav1.ListOptions{})
			if err != nil {
				return err
			}
			mu.Lock()
			left += len(items)
			mu.Unlock()
			now := int64(0)
			for i := range items {
				err := r.cluster.Dynamic.Resource(kind.gvr).Namespace(ns).Delete(gctx, items[i].GetName(), metav1.DeleteOptions{GracePeriodSeconds: &now})
				if err != nil && !apierrors.IsNotFound(err) {
					return fmt.Errorf("delete %s: %w", keyOf(&items[i]), err)
				}
			}
			return nil
		})
	}
	return left, g.Wait()
}
