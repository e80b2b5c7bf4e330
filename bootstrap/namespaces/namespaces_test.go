package namespaces

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func named(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

func TestRemove(t *testing.T) {
	client := fake.NewClientset(named("a", map[string]string{"part": "x"}), named("b", map[string]string{"part": "y"}), named("c", nil))
	if err := Remove(t.Context(), client, "part=x", func(s string) { t.Error(s) }); err != nil {
		t.Fatal(err)
	}
	list, err := client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for i := range list.Items {
		left = append(left, list.Items[i].Name)
	}
	if diff := cmp.Diff([]string{"b", "c"}, left); diff != "" {
		t.Error(diff)
	}
}

func TestRemoveOfOneThatStays(t *testing.T) {
	const why = "Some content in the namespace has finalizers remaining: ropes.local/held in 1 resource instances"
	synctest.Test(t, func(t *testing.T) {
		stuck := named("stuck", map[string]string{"part": "x"})
		stuck.Status.Conditions = []corev1.NamespaceCondition{
			{Type: corev1.NamespaceDeletionContentFailure, Status: corev1.ConditionFalse, Message: "all content is deleted"},
			{Type: corev1.NamespaceFinalizersRemaining, Status: corev1.ConditionTrue, Message: why},
		}
		client := fake.NewClientset(stuck)
		client.PrependReactor("delete", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, nil })
		var said []string
		began := time.Now()
		err := Remove(t.Context(), client, "part=x", func(s string) { said = append(said, s) })
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "namespace stuck: "+why) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != goneTimeout {
			t.Errorf("gave up after %s", took)
		}
		if diff := cmp.Diff([]string{"waiting for namespace stuck: " + why + " to go"}, said); diff != "" {
			t.Error(diff)
		}
	})
}
