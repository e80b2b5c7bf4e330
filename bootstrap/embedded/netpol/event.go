package netpol

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// tell records the warning as an event on its policy. The event's name follows from
// what it says, so that the agents of all nodes together record it once; the error is
// AlreadyExists for all but the first.
func tell(ctx context.Context, client kubernetes.Interface, w Warning) error {
	now := metav1.NewTime(time.Now())
	_, err := client.CoreV1().Events(w.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "networkpolicy." + digest(w.Policy+"\n"+w.Message)},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Namespace: w.Namespace, Name: w.Policy,
		},
		Type: corev1.EventTypeWarning, Reason: "NotEnforced", Message: w.Message,
		Source:         corev1.EventSource{Component: tableName},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	return err
}
