// Package rollout knows when Deployments are rolled out, and what stands in the way of
// one that is not. It watches; it never applies, restarts or deletes anything. Which
// Deployments matter, and how long to wait for them, is its caller's to know.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// Deployment names one Deployment.
type Deployment struct {
	Namespace, Name string
}

// String is namespace/name.
func (d Deployment) String() string { return d.Namespace + "/" + d.Name }

// State says how far one Deployment is.
type State struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Want      int32  `json:"want"`  // replicas asked for
	Ready     int32  `json:"ready"` // replicas of the current template that are available
	Done      bool   `json:"done"`  // every replica is of the current template and available
	// Detail says what is missing, in the words of the pod's status; empty when Done.
	Detail string `json:"detail,omitempty"`

	brief string // Detail in a few words
}

func (s *State) because(brief, detail string) { s.brief, s.Detail = brief, detail }

// Inspect reports where each of the Deployments stands now. One that does not exist is
// reported as such in its Detail; the error is that of an API server that does not answer.
func Inspect(ctx context.Context, client kubernetes.Interface, want []Deployment) ([]State, error) {
	states := make([]State, 0, len(want))
	for _, ref := range want {
		d, err := client.AppsV1().Deployments(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			states = append(states, absent(ref))
			continue
		case err != nil:
			return nil, fmt.Errorf("get deployment %s: %w", ref, err)
		}
		var pods []*corev1.Pod
		if selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil {
			list, err := client.CoreV1().Pods(ref.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
			if err != nil {
				return nil, fmt.Errorf("list pods of %s: %w", ref, err)
			}
			for i := range list.Items {
				pods = append(pods, &list.Items[i])
			}
		}
		states = append(states, stateOf(ref, d, pods))
	}
	return states, nil
}

// Wait returns once all the Deployments are rolled out. It watches them and their pods,
// and tells say, which must not be nil, what is missing when that changes, at most once
// in a second. A Deployment that does not exist yet is waited for.
//
// When ctx ends first, the error wraps its cause and names, for every Deployment that is
// short, pod, container and reason; where the time ran out, also the last event and the
// last line of the log. Without a deadline on ctx, Wait can last for ever.
func Wait(ctx context.Context, client kubernetes.Interface, want []Deployment, say func(string)) error {
	if len(want) == 0 {
		return nil
	}
	watching, stop := context.WithCancel(ctx)
	w := newWatcher(watching, client, want)
	defer w.shutdown()
	defer stop()

	said := ""
	var pause <-chan time.Time // runs while say is to be left in peace
	for {
		states := w.states()
		missing := slices.DeleteFunc(slices.Clone(states), func(s State) bool { return s.Done })
		if w.synced() && len(missing) == 0 {
			return nil
		}
		if text := w.summary(missing); text != "" && text != said && pause == nil {
			said = text
			say(text)
			pause = time.After(sayInterval)
		}
		select {
		case <-w.changed:
		case <-pause:
			pause = nil
		case <-ctx.Done():
			return w.failure(ctx, client, missing)
		}
	}
}

// sayInterval is the least time between two lines of a wait. Pods change state faster
// than anybody reads.
const sayInterval = time.Second

// absent is the State of a Deployment that the API server does not have.
func absent(ref Deployment) State {
	s := State{Namespace: ref.Namespace, Name: ref.Name, Want: 1}
	s.because("not there yet", "the Deployment does not exist")
	return s
}

// stateOf judges as `kubectl rollout status` does.
func stateOf(ref Deployment, d *appsv1.Deployment, pods []*corev1.Pod) State {
	s := State{Namespace: ref.Namespace, Name: ref.Name, Want: 1}
	if d.Spec.Replicas != nil {
		s.Want = *d.Spec.Replicas
	}
	st := d.Status
	s.Ready = min(st.AvailableReplicas, st.UpdatedReplicas)
	s.Done = st.ObservedGeneration >= d.Generation && st.UpdatedReplicas >= s.Want &&
		st.Replicas == st.UpdatedReplicas && st.AvailableReplicas >= s.Want
	if s.Done {
		return s
	}
	if b, ok := blockedPod(pods); ok {
		s.because(b.brief(), b.reason())
		return s
	}
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			s.because("its pods are refused", c.Message)
			return s
		}
	}
	switch {
	case st.UpdatedReplicas < s.Want:
		s.because("pods are being created", "pods are being created")
	case st.Replicas > st.UpdatedReplicas:
		s.because("old pods are ending", "old pods are ending")
	default:
		s.because("pods are not yet ready", "pods are not yet ready")
	}
	return s
}

// watcher keeps the Deployments and pods of some namespaces at hand.
type watcher struct {
	want    []Deployment
	changed chan struct{} // holds one token when something changed since the last look
	spaces  map[string]*space
	running sync.WaitGroup

	mu      sync.Mutex
	lastErr error // of listing or watching, cleared by nothing: informers go on by themselves
}

// space is what is watched of one namespace.
type space struct {
	factory     informers.SharedInformerFactory
	deployments appslisters.DeploymentNamespaceLister
	pods        corelisters.PodNamespaceLister
	synced      []cache.InformerSynced
}

func newWatcher(ctx context.Context, client kubernetes.Interface, want []Deployment) *watcher {
	w := &watcher{want: want, changed: make(chan struct{}, 1), spaces: map[string]*space{}}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { w.signal() },
		UpdateFunc: func(any, any) { w.signal() },
		DeleteFunc: func(any) { w.signal() },
	}
	for _, ref := range want {
		if w.spaces[ref.Namespace] != nil {
			continue
		}
		factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(ref.Namespace))
		s := &space{factory: factory}
		s.deployments = factory.Apps().V1().Deployments().Lister().Deployments(ref.Namespace)
		s.pods = factory.Core().V1().Pods().Lister().Pods(ref.Namespace)
		for _, informer := range []cache.SharedIndexInformer{
			factory.Apps().V1().Deployments().Informer(),
			factory.Core().V1().Pods().Informer(),
		} {
			// Neither can fail: the informer has not been started.
			_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { w.failed(err) })
			registration, err := informer.AddEventHandler(handler)
			if err == nil {
				s.synced = append(s.synced, registration.HasSynced)
			}
		}
		w.spaces[ref.Namespace] = s
		factory.Start(ctx.Done())
		// An empty namespace brings no event: its sync is the only news there is.
		w.running.Go(func() {
			if cache.WaitForCacheSync(ctx.Done(), s.synced...) {
				w.signal()
			}
		})
	}
	return w
}

// shutdown returns when all goroutines of the watcher, whose context has ended, are gone.
func (w *watcher) shutdown() {
	w.running.Wait()
	for _, s := range w.spaces {
		s.factory.Shutdown()
	}
}

func (w *watcher) signal() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

func (w *watcher) failed(err error) {
	if errors.Is(err, context.Canceled) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lastErr = err
	w.signal()
}

func (w *watcher) synced() bool {
	for _, s := range w.spaces {
		for _, synced := range s.synced {
			if !synced() {
				return false
			}
		}
	}
	return true
}

func (w *watcher) states() []State {
	states := make([]State, 0, len(w.want))
	for _, ref := range w.want {
		s := w.spaces[ref.Namespace]
		d, err := s.deployments.Get(ref.Name)
		if err != nil {
			states = append(states, absent(ref))
			continue
		}
		var pods []*corev1.Pod
		if selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil && selector != labels.Nothing() {
			pods, _ = s.pods.List(selector) // a cache does not fail
		}
		states = append(states, stateOf(ref, d, pods))
	}
	return states
}

// summary is one line for somebody who watches; empty where there is no news yet.
func (w *watcher) summary(missing []State) string {
	if !w.synced() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.lastErr != nil {
			return "the API server does not answer: " + w.lastErr.Error()
		}
		return ""
	}
	groups := alike(missing)
	parts := make([]string, len(groups))
	for i, group := range groups {
		names := make([]string, len(group))
		for j, s := range group {
			names[j] = s.Name
		}
		parts[i] = strings.Join(names, ", ") + " (" + group[0].brief + ")"
	}
	return "waiting for " + strings.Join(parts, ", ")
}

// alike groups states that are short for the same reason, in the order of the first of each.
func alike(states []State) [][]State {
	var groups [][]State
	at := map[string]int{}
	for _, s := range states {
		i, ok := at[s.brief]
		if !ok {
			i = len(groups)
			at[s.brief] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], s)
	}
	return groups
}

// diagnosisTimeout bounds the questions asked after a wait has failed.
const diagnosisTimeout = 5 * time.Second

// failure is the error of a wait that ctx ended.
func (w *watcher) failure(ctx context.Context, client kubernetes.Interface, missing []State) error {
	cause := context.Cause(ctx)
	if !w.synced() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.lastErr != nil {
			return fmt.Errorf("%w; last seen: %w", cause, w.lastErr)
		}
		return fmt.Errorf("%w; the API server has not answered", cause)
	}
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), diagnosisTimeout)
	defer cancel()
	groups := alike(missing)
	lines := make([]string, len(groups))
	for i, group := range groups {
		names := make([]string, len(group))
		for j, s := range group {
			names[j] = fmt.Sprintf("%s/%s (%d of %d pods ready)", s.Namespace, s.Name, s.Ready, s.Want)
		}
		lines[i] = "deployment " + strings.Join(names, ", ") + ": " + group[0].Detail
		// Somebody who interrupts wants the prompt back, not a report.
		if errors.Is(cause, context.DeadlineExceeded) {
			if more := w.explain(asking, client, group[0]); more != "" {
				lines[i] += "; " + more
			}
		}
	}
	return fmt.Errorf("%w; last seen: %s", cause, strings.Join(lines, "; "))
}
