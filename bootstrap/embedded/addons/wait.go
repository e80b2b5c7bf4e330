package addons

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/ropes-dev/ropes/bootstrap/kubeclient"
	"github.com/ropes-dev/ropes/manifests"
)

// Wait returns once all that Apply has started is ready: what WaitAgents waits for,
// metrics-server, and its API. metrics-server needs two looks at the kubelets, fifteen
// seconds apart, before it counts itself ready.
//
// say, which must not be nil, hears what is missing whenever that changes. When ctx ends
// first the error wraps its cause and says of each object that is not ready what was
// last seen of it and of its pods. Without a deadline on ctx it can last for ever.
func Wait(ctx context.Context, kubeconfig []byte, say func(string), without ...AddOn) error {
	return waitFor(ctx, kubeconfig, slices.Collect(maps.Keys(judges)), say, without...)
}

// WaitAgents is Wait for the agents on every node alone: once it returns claims get
// their volumes and policies are enforced, which is all that other pods may rely on.
func WaitAgents(ctx context.Context, kubeconfig []byte, say func(string)) error {
	return waitFor(ctx, kubeconfig, []string{"DaemonSet"}, say)
}

func waitFor(ctx context.Context, kubeconfig []byte, kinds []string, say func(string), without ...AddOn) error {
	objects, err := load(manifests.FS, without...)
	if err != nil {
		return err
	}
	objects = slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool { return !slices.Contains(kinds, o.GetKind()) })
	config, err := kubeclient.Config(kubeconfig)
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	pods, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	return wait(ctx, client, pods, objects, say)
}

func wait(ctx context.Context, client dynamic.Interface, pods kubernetes.Interface, objects []*unstructured.Unstructured, say func(string)) error {
	b := &board{say: say, missing: map[string]string{}}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, o := range objects {
		j, ok := judges[o.GetKind()]
		if !ok {
			continue
		}
		b.missing[describe(o)] = "not there yet"
		wg.Go(func() {
			if err := j.await(ctx, client, o, b); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, explain(ctx, pods, o, b.last(describe(o)), err))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// await watches the object until it is ready.
func (j judge) await(ctx context.Context, client dynamic.Interface, o *unstructured.Unstructured, b *board) error {
	resource := client.Resource(j.resource).Namespace(o.GetNamespace())
	only := fields.OneTermEqualSelector("metadata.name", o.GetName()).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			opts.FieldSelector = only
			return resource.List(ctx, opts)
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			opts.FieldSelector = only
			return resource.Watch(ctx, opts)
		},
	}
	lister := cache.ToListWatcherWithWatchListSemantics(lw, client)
	_, err := watchtools.UntilWithSync(ctx, lister, &unstructured.Unstructured{}, nil, func(e watch.Event) (bool, error) {
		seen, ok := e.Object.(*unstructured.Unstructured)
		if !ok || e.Type == watch.Deleted {
			b.set(describe(o), "not there yet")
			return false, nil
		}
		missing, err := j.missing(seen)
		if err != nil {
			return false, err
		}
		b.set(describe(o), missing)
		return missing == "", nil
	})
	return err
}

// board holds what is missing of each object and tells changes on.
type board struct {
	say func(string)

	mu      sync.Mutex
	missing map[string]string
	said    string
}

func (b *board) set(name, missing string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if missing == "" {
		delete(b.missing, name)
	} else {
		b.missing[name] = missing
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(b.missing)) {
		parts = append(parts, name+": "+b.missing[name])
	}
	if text := strings.Join(parts, "; "); text != "" && text != b.said {
		b.said = text
		b.say(text)
	}
}

func (b *board) last(name string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.missing[name]
}

// explainTimeout bounds the questions asked after the time to wait has run out.
const explainTimeout = 5 * time.Second

// explain joins what is known of an object that did not become ready.
func explain(ctx context.Context, client kubernetes.Interface, o *unstructured.Unstructured, last string, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), explainTimeout)
	defer cancel()
	text := describe(o) + " is not ready: " + last
	if why := podsOf(ctx, client, o); why != "" {
		text += " (" + why + ")"
	}
	return fmt.Errorf("%s: %w", text, err)
}

// podsOf says what the object's pods that are not ready wait for; empty where it has
// none or they cannot be had.
func podsOf(ctx context.Context, client kubernetes.Interface, o *unstructured.Unstructured) string {
	match, _, err := unstructured.NestedStringMap(o.Object, "spec", "selector", "matchLabels")
	if err != nil || len(match) == 0 {
		return ""
	}
	selector := metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: match})
	pods, err := client.CoreV1().Pods(o.GetNamespace()).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return ""
	}
	if len(pods.Items) == 0 {
		return "it has no pods"
	}
	var parts []string
	for i := range pods.Items {
		if why := unready(&pods.Items[i]); why != "" {
			parts = append(parts, fmt.Sprintf("pod %s: %s", pods.Items[i].Name, why))
		}
	}
	return strings.Join(parts, "; ")
}

func unready(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return ""
		}
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "no node takes it: " + c.Message
		}
	}
	for _, c := range p.Status.ContainerStatuses {
		switch {
		case c.State.Waiting != nil:
			why := strings.TrimSpace(c.State.Waiting.Reason + " " + c.State.Waiting.Message)
			if t := c.LastTerminationState.Terminated; t != nil {
				why += fmt.Sprintf(" (last run exited with status %d)", t.ExitCode)
			}
			return why
		case c.State.Terminated != nil:
			return fmt.Sprintf("exited with status %d", c.State.Terminated.ExitCode)
		case !c.Ready:
			return "runs and is not ready"
		}
	}
	return "has not started"
}
