package kind

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNotReady(t *testing.T) {
	node := func(name string, ready corev1.ConditionStatus) corev1.Node {
		n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if ready != "" {
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, Message: "no pod network"}}
		}
		return n
	}
	got := notReady([]corev1.Node{node("a", corev1.ConditionTrue), node("b", corev1.ConditionFalse), node("c", "")}, []string{"a", "b", "c", "d"})
	if diff := cmp.Diff([]string{"b: no pod network", "c has not reported", "d has not joined"}, got); diff != "" {
		t.Error(diff)
	}
}
