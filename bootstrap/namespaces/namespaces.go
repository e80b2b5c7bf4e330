// Package namespaces removes the namespaces that ropes made in a cluster. It knows nothing
// of what is in them.
package namespaces

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/ropes-dev/ropes/bootstrap"
)

// PartLabel marks the namespaces that ropes makes, with the part of the lab that they are for.
const PartLabel = "ropes.dev/part"

// Labels are those of a part's namespaces, with the cluster of ropes that they are made for where owner names it.
func Labels(part, owner string) map[string]string {
	out := map[string]string{PartLabel: part}
	if owner != "" {
		out[bootstrap.ClusterLabel] = owner
	}
	return out
}

// Selector matches the namespaces that have the Labels of a part.
func Selector(part, owner string) string { return labels.SelectorFromSet(Labels(part, owner)).String() }

// goneTimeout bounds how long namespaces may take to go. Their pods have 30 s of grace; a
// finalizer that nobody serves any more keeps one for ever.
const goneTimeout = 3 * time.Minute

// goneInterval is how often namespaces that are going are looked at.
const goneInterval = 200 * time.Millisecond

// Remove deletes the namespaces that the label selector matches and waits until they are
// gone. It tells say which one it waits for and what the cluster says keeps that one, and
// returns the same as an error where it waits for too long. None to match is no error.
func Remove(ctx context.Context, client kubernetes.Interface, selector string, say func(string)) error {
	ours := metav1.ListOptions{LabelSelector: selector}
	list, err := client.CoreV1().Namespaces().List(ctx, ours)
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	for i := range list.Items {
		if err := client.CoreV1().Namespaces().Delete(ctx, list.Items[i].Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete namespace %s: %w", list.Items[i].Name, err)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, goneTimeout, fmt.Errorf("namespaces are not gone after %s: %w", goneTimeout, context.DeadlineExceeded))
	defer cancel()
	said := ""
	return bootstrap.Poll(ctx, goneInterval, func(ctx context.Context) error {
		list, err := client.CoreV1().Namespaces().List(ctx, ours)
		if err != nil {
			return fmt.Errorf("list namespaces: %w", err)
		}
		if len(list.Items) == 0 {
			return nil
		}
		ns := &list.Items[0]
		text := strings.Join(append([]string{"namespace " + ns.Name}, keeps(ns)...), ": ")
		if text != said {
			said = text
			say("waiting for " + text + " to go")
		}
		return fmt.Errorf("%s is still there", text)
	})
}

// keeps is what the namespace controller says keeps a namespace from going.
func keeps(ns *corev1.Namespace) []string {
	var out []string
	for _, c := range ns.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			out = append(out, c.Message)
		}
	}
	return out
}
