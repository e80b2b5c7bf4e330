package session

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

func (r *restorer) client(u *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	return r.cluster.Resource(u.GetAPIVersion(), u.GetKind(), u.GetNamespace())
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
