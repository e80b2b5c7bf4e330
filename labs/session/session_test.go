package session

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	fakedynamic "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/checks/clustertest"
	"github.com/ropes-dev/ropes/labs"
)

const labYAML = `
id: demo
title: Demo
summary: A lab.
minutes: 5
namespaces: [demo]
owns:
  - {apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, names: [demo-role]}
steps:
  - id: one
    title: One
    hints: [First., Second.]
    objects: {c: {apiVersion: v1, kind: ConfigMap, namespace: demo, name: one}}
    checks:
      - {id: there, description: d, expr: c != null, want: w, why: y, next: n}
  - id: two
    title: Two
    hints: [Only.]
    objects: {c: {apiVersion: v1, kind: ConfigMap, namespace: demo, name: two}}
    checks:
      - {id: there, description: d, expr: c != null, want: w, why: y, next: n}
`

const baselineYAML = `
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {team: a}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: base, namespace: demo}
data: {a: b}
`

// bench is a session on a cluster that is an object store.
type bench struct {
	*Session
	dyn    *fakedynamic.FakeDynamicClient
	events []string
}

func newBench(t *testing.T, adopt bool, there ...*unstructured.Unstructured) *bench {
	t.Helper()
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	cat, err := labs.Load(labs.Source{Name: "test", FS: fstest.MapFS{
		"demo/lab.yaml": file(labYAML), "demo/baseline/all.yaml": file(strings.TrimSpace(baselineYAML)),
		"demo/steps/01-one.md": file("x"), "demo/steps/02-two.md": file("x"), "demo/solve/one.sh": file("x"), "demo/solve/two.sh": file("x"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	there = append(there, clustertest.Object(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: kube-system, uid: cluster-1}"))
	cluster, dyn := clustertest.New(t, there...)
	// The store has no server-side apply without a schema: an apply of something new is a create.
	dyn.PrependReactor("patch", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		p, ok := a.(clienttesting.PatchActionImpl)
		if !ok || p.PatchType != "application/apply-patch+yaml" {
			return false, nil, nil
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(p.GetPatch()); err != nil {
			return true, nil, err
		}
		return true, u, dyn.Tracker().Create(a.GetResource(), u, a.GetNamespace())
	})
	b := &bench{dyn: dyn}
	b.Session, err = Open(Options{
		Cluster: "test", StateDir: t.TempDir(), Labs: cat, Adopt: adopt,
		Observer: ObserverFunc(func(e Event) {
			if e.Kind != Progressing {
				b.events = append(b.events, strings.TrimSpace(fmt.Sprintf("%s %s", e.Kind, e.Step)))
			}
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	b.connect = func() (*checks.Runner, error) { return &checks.Runner{Cluster: cluster}, nil }
	return b
}

func (b *bench) in(resource string) schema.GroupVersionResource {
	if resource == "clusterroles" {
		return schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: resource}
	}
	return schema.GroupVersionResource{Version: "v1", Resource: resource}
}

func (b *bench) create(t *testing.T, resource, manifest string) {
	t.Helper()
	u := clustertest.Object(t, manifest)
	if _, err := b.dyn.Resource(b.in(resource)).Namespace(u.GetNamespace()).Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) names(t *testing.T, resource, ns string) []string {
	t.Helper()
	l, err := b.dyn.Resource(b.in(resource)).Namespace(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, u := range l.Items {
		out = append(out, u.GetName())
	}
	slices.Sort(out)
	return out
}

func configMap(name string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: demo, uid: uid-%s}", name, name)
}

func TestWayThroughALab(t *testing.T) {
	b := newBench(t, false)
	if _, _, err := b.Current(); !errors.Is(err, ErrNoLab) {
		t.Errorf("before start: %v", err)
	}
	if err := b.Start(t.Context(), "moon"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "demo") {
		t.Errorf("unknown lab: %v", err)
	}
	if err := b.Start(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Check(t.Context(), "nine"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "one, two") {
		t.Errorf("unknown step: %v", err)
	}
	if vs, err := b.Check(t.Context(), ""); err != nil || vs[0].State != checks.Unmet {
		t.Errorf("fresh: %v, %v", vs, err)
	}
	b.create(t, "configmaps", configMap("one"))
	if vs, err := b.Check(t.Context(), ""); err != nil || !checks.AllMet(vs) {
		t.Errorf("solved: %v, %v", vs, err)
	}
	if _, step, err := b.Current(); err != nil || step.ID != "two" {
		t.Errorf("current: %v, %v", step, err)
	}
	b.create(t, "configmaps", configMap("two"))
	if _, err := b.Check(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	if _, step, err := b.Current(); err != nil || step != nil {
		t.Errorf("current after the last step: %v, %v", step, err)
	}
	want := []string{"lab-started", "step-started one", "verdict one", "verdict one", "step-met one", "step-started two", "verdict two", "step-met two", "lab-met"}
	if d := cmp.Diff(want, b.events); d != "" {
		t.Error(d)
	}
}

func TestWatchGoesThroughALab(t *testing.T) {
	b := newBench(t, false)
	if err := b.Start(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.Watch(t.Context()) }()
	b.create(t, "configmaps", configMap("one"))
	b.create(t, "configmaps", configMap("two"))
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("not met")
	}
	p, err := b.Progress()
	if err != nil || !p.Labs["demo"].IsMet("one") || !p.Labs["demo"].IsMet("two") {
		t.Errorf("%+v, %v", p.Labs["demo"], err)
	}
}

func TestHints(t *testing.T) {
	b := newBench(t, false)
	if _, err := b.Hint(""); !errors.Is(err, ErrNoLab) {
		t.Errorf("before start: %v", err)
	}
	if err := b.Start(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []Hint{{"one", 1, 2, "First."}, {"one", 2, 2, "Second."}, {"one", 2, 2, "Second."}} {
		if got, err := b.Hint(""); err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
}

func TestReset(t *testing.T) {
	b := newBench(t, false)
	ctx := t.Context()
	if err := b.Start(ctx, "demo"); err != nil {
		t.Fatal(err)
	}
	b.create(t, "configmaps", configMap("one"))
	if _, err := b.Check(ctx, ""); err != nil {
		t.Fatal(err)
	}
	// The learner spoils step two: one object too many, one changed, one gone, one outside.
	b.create(t, "configmaps", configMap("two"))
	b.create(t, "clusterroles", "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: demo-role, uid: r}")
	b.create(t, "clusterroles", "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: somebody-elses, uid: s}")
	cms := b.dyn.Resource(b.in("configmaps")).Namespace("demo")
	base, err := cms.Get(ctx, "base", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	base.Object["data"] = map[string]any{"a": "spoiled"}
	if _, err := cms.Update(ctx, base, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := cms.Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	rep, err := b.Reset(ctx, ScopeStep)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"ClusterRole demo-role", "ConfigMap demo/two"}, rep.Deleted); d != "" {
		t.Errorf("deleted: %s", d)
	}
	if d := cmp.Diff([]string{"ConfigMap demo/base", "ConfigMap demo/one"}, rep.Restored); d != "" {
		t.Errorf("restored: %s", d)
	}
	snap, err := b.store.snapshot(stepKey("demo", "two"))
	if err != nil || rep.Digest != snap.Digest || rep.Objects != 3 {
		t.Errorf("digest %s of %d objects, want %s (%v)", rep.Digest, rep.Objects, snap.Digest, err)
	}
	if d := cmp.Diff([]string{"base", "one"}, b.names(t, "configmaps", "demo")); d != "" {
		t.Errorf("after reset step: %s", d)
	}
	if rep, err = b.Reset(ctx, ScopeLab); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"base"}, b.names(t, "configmaps", "demo")); d != "" {
		t.Errorf("after reset lab: %s", d)
	}
	if _, step, err := b.Current(); err != nil || step.ID != "one" {
		t.Errorf("current after reset lab: %v, %v", step, err)
	}
	if rep, err = b.Reset(ctx, ScopeCluster); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"kube-system"}, b.names(t, "namespaces", "")); d != "" {
		t.Errorf("after reset cluster: %s", d)
	}
	if d := cmp.Diff([]string{"somebody-elses"}, b.names(t, "clusterroles", "")); d != "" {
		t.Errorf("after reset cluster: %s", d)
	}
	if _, _, err := b.Current(); !errors.Is(err, ErrNoLab) {
		t.Errorf("after reset cluster: %v", err)
	}
}

// TestResetProves: a reset that cannot bring the baseline about says so.
func TestResetProves(t *testing.T) {
	b := newBench(t, false)
	if err := b.Start(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	b.create(t, "configmaps", configMap("two"))
	b.dyn.PrependReactor("delete", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, nil }) // deletes nothing
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := b.Reset(ctx, ScopeLab)
	if !errors.Is(err, ErrNotAtRest) || !strings.Contains(err.Error(), "ConfigMap demo/two not in the baseline") {
		t.Errorf("got %v", err)
	}
}

func TestStartLeavesForeignNamespacesAlone(t *testing.T) {
	ns := clustertest.Object(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo, uid: nu}")
	err := newBench(t, false, ns).Start(t.Context(), "demo")
	if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "kubectl delete namespace demo") {
		t.Errorf("got %v", err)
	}
	if err := newBench(t, true, ns.DeepCopy()).Start(t.Context(), "demo"); err != nil {
		t.Errorf("on a cluster of our own: %v", err)
	}
}

// TestAnotherCluster: progress on a cluster that was made again does not count.
func TestAnotherCluster(t *testing.T) {
	b := newBench(t, false)
	if err := b.Start(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	p, err := b.Progress()
	if err != nil {
		t.Fatal(err)
	}
	p.UID = "cluster-0"
	if err := b.store.saveProgress(p); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Check(t.Context(), ""); !errors.Is(err, ErrNoLab) {
		t.Errorf("got %v, want ErrNoLab", err)
	}
	if _, err := b.store.snapshot(labKey("demo")); !errors.Is(err, ErrNoSnapshot) {
		t.Errorf("the other cluster's baseline is still there: %v", err)
	}
}

// TestClusterGone: a check that cannot be asked is never unmet, and progress stays as it was.
func TestClusterGone(t *testing.T) {
	b := newBench(t, false)
	if err := b.Start(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	gone := &url.Error{Op: "Get", URL: "https://127.0.0.1:6443", Err: syscall.ECONNREFUSED}
	b.dyn.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, gone })
	vs, err := b.Check(t.Context(), "")
	if err != nil || len(vs) != 1 || vs[0].State != checks.CouldNotRun || !strings.Contains(vs[0].Why, "connection refused") {
		t.Errorf("check: %+v, %v", vs, err)
	}
	for what, err := range map[string]error{
		"start": b.Start(t.Context(), "demo"), "watch": b.Watch(t.Context()),
		"reset": func() error { _, err := b.Reset(t.Context(), ScopeLab); return err }(),
	} {
		if !errors.Is(err, ErrCluster) || !strings.Contains(err.Error(), "ropes status") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, step, err := b.Current(); err != nil || step.ID != "one" {
		t.Errorf("current: %v, %v", step, err)
	}
}
