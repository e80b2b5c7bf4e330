package checks_test

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/checks/clustertest"
)

// TestWatch follows a check through a learner's actions: each changes the verdict, and what
// does not concern the check is not told.
func TestWatch(t *testing.T) {
	cluster, dyn := clustertest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	verdicts := make(chan checks.Verdict, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := checks.Runner{Cluster: cluster}
		r.Watch(ctx, "s", []checks.Check{compiled(t, teamCheck())}, checks.ObserverFunc(func(v checks.Verdict) { verdicts <- v }))
	}()
	next := func(state checks.State, mistake string) {
		t.Helper()
		select {
		case v := <-verdicts:
			if v.State != state || v.Mistake != mistake {
				t.Fatalf("%+v, want %s %s", v, state, mistake)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no verdict, want %s %s", state, mistake)
		}
	}
	next(checks.Unmet, "")
	namespaces := dyn.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	other := clustertest.Object(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: other, labels: {team: a}}")
	if _, err := namespaces.Create(ctx, other, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ns := clustertest.Object(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo, resourceVersion: '1', labels: {team: b}}")
	if _, err := namespaces.Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	next(checks.Unmet, "other")
	ns.SetLabels(map[string]string{"team": "a"})
	ns.SetResourceVersion("2")
	if _, err := namespaces.Update(ctx, ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	next(checks.Met, "")
	if err := namespaces.Delete(ctx, "demo", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	next(checks.Unmet, "")
	cancel()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("Watch outlives its context")
	}
}
