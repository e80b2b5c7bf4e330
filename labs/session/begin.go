package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/checks/cel"
	"github.com/ropes-dev/ropes/labs"
)

// The bounds of a lab's start.
const (
	applyTimeout = time.Minute     // for the API server to take all of the baseline
	readyTimeout = 2 * time.Minute // for the baseline's workloads to be ready
	beginPoll    = 300 * time.Millisecond
	fieldManager = "ropes"
)

// begin brings about and records a lab's baseline on a cluster that has no record of it.
func (s *Session) begin(ctx context.Context, r *checks.Runner, lab *labs.Lab) error {
	if err := needs(ctx, r.Cluster, lab); err != nil {
		return err
	}
	iv := s.inventorist(r, lab)
	if err := s.vacate(ctx, iv); err != nil {
		return err
	}
	if !s.opts.Adopt && slices.Contains(lab.Needs, labs.NeedStorage) {
		if err := freeVolumes(ctx, r.Cluster); err != nil {
			return fmt.Errorf("lab %s: %w", lab.ID, err)
		}
	}
	s.progressing(lab.ID, "applying the baseline, %d objects", len(lab.Baseline))
	if err := apply(ctx, r.Cluster, lab); err != nil {
		return err
	}
	if err := s.awaitReady(ctx, r.Cluster, lab); err != nil {
		return err
	}
	snap, err := iv.snapshot(ctx)
	if err != nil {
		return err
	}
	return errors.Join(s.store.saveSnapshot(labKey(lab.ID), snap), s.store.saveSnapshot(stepKey(lab.ID, lab.Steps[0].ID), snap))
}

// vacate makes sure that nothing of the lab is there before it begins. What is there
// without a record is removed where it is ropes' own, and otherwise left alone.
func (s *Session) vacate(ctx context.Context, iv inventorist) error {
	inv, err := iv.take(ctx)
	if err != nil {
		return err
	}
	if len(inv.namespaces) == 0 && len(inv.objects) == 0 {
		return nil
	}
	var foreign []string
	for name, ns := range inv.namespaces {
		if ns.GetLabels()[labs.LabLabel] != iv.lab.ID {
			foreign = append(foreign, name)
		}
	}
	if s.opts.Adopt {
		foreign = nil
	}
	if len(foreign) > 0 {
		return fmt.Errorf("%w: lab %s needs %s for itself; if nobody needs what is there, run: kubectl delete namespace %s",
			ErrForeign, iv.lab.ID, strings.Join(foreign, ", "), strings.Join(foreign, " "))
	}
	if loose := inv.unlabelled(iv.lab.ID); len(loose) > 0 && !s.opts.Adopt {
		return fmt.Errorf("%w: lab %s would take these for its own: %s; if nobody needs them, delete them", ErrForeign, iv.lab.ID, strings.Join(loose, ", "))
	}
	s.progressing(iv.lab.ID, "removing what an earlier run has left")
	_, err = iv.restore(ctx, emptySnapshot(), func(d string) { s.progressing(iv.lab.ID, "%s", d) })
	return err
}

// unlabelled lists the cluster-scoped objects that nothing marks as a lab's.
func (inv *inventory) unlabelled(lab string) []string {
	var out []string
	for k, u := range inv.objects {
		if k.namespace == "" && u.GetLabels()[labs.LabLabel] != lab {
			out = append(out, k.String())
		}
	}
	slices.Sort(out)
	return out
}

// emptySnapshot is the baseline of a cluster on which a lab has not begun.
func emptySnapshot() Snapshot {
	s := Snapshot{}
	s.Digest = s.total()
	return s
}

// needs looks for what the lab cannot do without. Whether NetworkPolicies are enforced
// cannot be asked of the API: it is left to the lab's own checks.
func needs(ctx context.Context, c *checks.Cluster, lab *labs.Lab) error {
	for _, n := range lab.Needs {
		var err error
		switch n {
		case labs.NeedMesh:
			_, err = c.Mapping("security.istio.io/v1", "PeerAuthentication")
		case labs.NeedStorage:
			err = hasDefaultClass(ctx, c)
		case labs.NeedMetrics:
			_, err = c.Mapping("metrics.k8s.io/v1beta1", "PodMetrics")
		}
		if errors.Is(err, checks.ErrUnknownKind) {
			return fmt.Errorf("%w %s, which lab %s needs: %w", ErrNeed, needNames[n], lab.ID, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var needNames = map[labs.Need]string{
	labs.NeedMesh: "Istio", labs.NeedStorage: "a default StorageClass", labs.NeedMetrics: "the metrics API",
}

func hasDefaultClass(ctx context.Context, c *checks.Cluster) error {
	v, err := c.Read(ctx, checks.ObjectRef{APIVersion: "storage.k8s.io/v1", Kind: "StorageClass"})
	if err != nil {
		return err
	}
	items, _ := v.([]any)
	for _, item := range items {
		obj, _ := item.(map[string]any)
		if def, _, _ := unstructured.NestedString(obj, "metadata", "annotations", "storageclass.kubernetes.io/is-default-class"); def == "true" {
			return nil
		}
	}
	return fmt.Errorf("%w %s", ErrNeed, needNames[labs.NeedStorage])
}

// freeVolumes refuses a cluster of somebody else's with volumes that nobody has claimed: the
// binder would give them to claims of the lab, as soon as size and access mode fit. Volumes of a class
// go to claims that name the class; the lab's name their own, the default one, or none.
func freeVolumes(ctx context.Context, c *checks.Cluster) error {
	var free []string
	v, err := c.Read(ctx, checks.ObjectRef{APIVersion: "v1", Kind: "PersistentVolume"})
	if err != nil {
		return err
	}
	items, _ := v.([]any)
	for _, item := range items {
		obj, _ := item.(map[string]any)
		class, _, _ := unstructured.NestedString(obj, "spec", "storageClassName")
		_, claimed, _ := unstructured.NestedMap(obj, "spec", "claimRef")
		name, _, _ := unstructured.NestedString(obj, "metadata", "name")
		if class == "" && !claimed {
			free = append(free, name)
		}
	}
	if len(free) == 0 {
		return nil
	}
	slices.Sort(free)
	return fmt.Errorf("%w: nobody has claimed PersistentVolume %s, so claims of this lab could be bound to it; its owner can reserve it with spec.claimRef or give it a class",
		ErrForeign, strings.Join(free, ", "))
}

// apply writes the baseline, object by object in the author's order. What the cluster is not
// yet ready to take (a webhook that starts, a service account to come) is tried again.
func apply(ctx context.Context, c *checks.Cluster, lab *labs.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	for _, obj := range lab.Baseline {
		for {
			err := applyOne(ctx, c, lab, obj)
			if err == nil {
				break
			}
			if !worthAnotherTry(err) {
				return fmt.Errorf("baseline of %s: %w", lab.ID, err)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("baseline of %s: %w; last seen: %w", lab.ID, ctx.Err(), err)
			case <-time.After(beginPoll):
			}
		}
	}
	return nil
}

func applyOne(ctx context.Context, c *checks.Cluster, lab *labs.Lab, obj *unstructured.Unstructured) error {
	m, err := c.Mapping(obj.GetAPIVersion(), obj.GetKind())
	if err != nil {
		return err
	}
	u := obj.DeepCopy()
	ri := c.Dynamic.Resource(m.Resource).Namespace("")
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		ri = c.Dynamic.Resource(m.Resource).Namespace(u.GetNamespace())
	} else {
		l := u.GetLabels()
		if l == nil {
			l = map[string]string{}
		}
		l[labs.LabLabel] = lab.ID
		u.SetLabels(l)
	}
	if _, err := ri.Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return fmt.Errorf("apply %s: %w", keyOf(u), err)
	}
	return nil
}

// worthAnotherTry tells what may pass by itself from what is wrong with the object.
func worthAnotherTry(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return false
	}
	return !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err)
}

// awaitReady waits for the baseline's workloads, which the first step's probes start from.
func (s *Session) awaitReady(ctx context.Context, c *checks.Cluster, lab *labs.Lab) error {
	comp, err := cel.NewCompiler([]string{"object"})
	if err != nil {
		return err
	}
	ready, err := comp.Compile(`ready(object) || (object != null && object.?status.?phase.orValue("") == "Succeeded")`, cel.Bool)
	if err != nil {
		return fmt.Errorf("readiness: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	var said string
	for {
		waiting := ""
		for _, obj := range lab.Baseline {
			switch obj.GetKind() {
			case "Deployment", "StatefulSet", "DaemonSet", "Pod":
			default:
				continue
			}
			v, err := c.Read(ctx, checks.ObjectRef{APIVersion: obj.GetAPIVersion(), Kind: obj.GetKind(), Namespace: obj.GetNamespace(), Name: obj.GetName()})
			if err == nil {
				v, err = ready.Eval(map[string]any{"object": v})
			}
			if err != nil {
				return fmt.Errorf("baseline of %s: %w", lab.ID, err)
			}
			if v != true {
				waiting = keyOf(obj).String()
				break
			}
		}
		if waiting == "" {
			return nil
		}
		if waiting != said {
			said = waiting
			s.progressing(lab.ID, "waiting for %s", waiting)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("baseline of %s: %s is not ready: %w", lab.ID, waiting, ctx.Err())
		case <-time.After(beginPoll):
		}
	}
}
