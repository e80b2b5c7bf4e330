package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/ropes-dev/ropes/bootstrap"
)

const (
	// restartEvery is how often a cluster that starts again is looked at.
	restartEvery = 500 * time.Millisecond
	// oneLook bounds one such look.
	oneLook = 10 * time.Second
	// sliceController is who keeps the EndpointSlices of Services with a selector, as
	// k8s.io/endpointslice labels them.
	sliceController = "endpointslice-controller.k8s.io"
)

// AwaitRestart returns once what the API server says of a cluster whose nodes were away
// is true again. Until the kubelets have reported and the controllers have counted, it
// says what was true before: pods are ready that have not started, and Services lead to
// addresses that are by now somebody else's.
//
// started has, by node name, the time at which each node started; say, which must not be
// nil, hears what is still of before. When ctx ends first the error says what was last seen.
func AwaitRestart(ctx context.Context, client kubernetes.Interface, started map[string]time.Time, say func(string)) error {
	return bootstrap.Poll(ctx, restartEvery, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, oneLook)
		defer cancel()
		now, err := look(ctx, client)
		if err != nil {
			return fmt.Errorf("the API server does not answer: %w", err)
		}
		text := now.behind(started)
		if text == "" {
			return nil
		}
		say(text)
		return errors.New(text)
	})
}

// accounts are what a cluster says of its pods, and what its controllers made of it.
type accounts struct {
	pods        []corev1.Pod
	services    []corev1.Service
	slices      []discoveryv1.EndpointSlice
	replicaSets []appsv1.ReplicaSet
	deployments []appsv1.Deployment
	daemonSets  []appsv1.DaemonSet
}

func look(ctx context.Context, client kubernetes.Interface) (a accounts, err error) {
	all := metav1.ListOptions{}
	// The pods come last: what was made of them must not be newer than they are.
	deployments, err := client.AppsV1().Deployments("").List(ctx, all)
	if err != nil {
		return a, err
	}
	replicaSets, err := client.AppsV1().ReplicaSets("").List(ctx, all)
	if err != nil {
		return a, err
	}
	daemonSets, err := client.AppsV1().DaemonSets("").List(ctx, all)
	if err != nil {
		return a, err
	}
	services, err := client.CoreV1().Services("").List(ctx, all)
	if err != nil {
		return a, err
	}
	slices, err := client.DiscoveryV1().EndpointSlices("").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelManagedBy + "=" + sliceController})
	if err != nil {
		return a, err
	}
	pods, err := client.CoreV1().Pods("").List(ctx, all)
	if err != nil {
		return a, err
	}
	return accounts{pods.Items, services.Items, slices.Items, replicaSets.Items, deployments.Items, daemonSets.Items}, nil
}

// behind says what is of before the restart, empty where nothing is.
func (a accounts) behind(started map[string]time.Time) string {
	if old := stale(a.pods, started); len(old) > 0 {
		return fmt.Sprintf("%d pods have not started again, %s among them", len(old), old[0])
	}
	if over := a.overcounted(); len(over) > 0 {
		return fmt.Sprintf("%s is counted as ready with pods that are not", over[0])
	}
	return a.astray()
}

// stale are the pods of which some container is said to run since before the pod's node
// did. One that has ended is not started again, whatever is said of its containers.
func stale(pods []corev1.Pod, started map[string]time.Time) []string {
	var names []string
	for i := range pods {
		p := &pods[i]
		since := started[p.Spec.NodeName].Truncate(time.Second) // as the API has times
		if p.DeletionTimestamp == nil && !hasEnded(p) && slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
			return s.State.Running != nil && s.State.Running.StartedAt.Time.Before(since)
		}) {
			names = append(names, p.Namespace+"/"+p.Name)
		}
	}
	return names
}

// overcounted are the workloads of whose pods more are said to be ready than are. Nobody
// counts the pods of a workload that is being deleted any more.
func (a accounts) overcounted() []string {
	ready := map[types.UID]int32{} // by what controls the pods
	going := map[types.UID]int32{} // ready still, and being deleted: daemon sets count them
	for i := range a.pods {
		owner := metav1.GetControllerOf(&a.pods[i])
		switch {
		case owner == nil || !isReady(&a.pods[i]):
		case a.pods[i].DeletionTimestamp == nil:
			ready[owner.UID]++
		default:
			going[owner.UID]++
		}
	}
	var over []string
	add := func(kind string, o metav1.Object, claimed int32) {
		if o.GetDeletionTimestamp() == nil && claimed > ready[o.GetUID()] {
			over = append(over, kind+" "+o.GetNamespace()+"/"+o.GetName())
		}
	}
	for i := range a.replicaSets {
		rs := &a.replicaSets[i]
		add("replica set", rs, rs.Status.ReadyReplicas)
		if owner := metav1.GetControllerOf(rs); owner != nil {
			ready[owner.UID] += ready[rs.UID]
		}
	}
	for i := range a.deployments {
		add("deployment", &a.deployments[i], a.deployments[i].Status.ReadyReplicas)
	}
	for i := range a.daemonSets {
		ds := &a.daemonSets[i]
		add("daemon set", ds, ds.Status.NumberReady-going[ds.UID])
	}
	return over
}

// astray says of a Service that it leads elsewhere than to its ready pods, empty where
// all lead where they should.
func (a accounts) astray() string {
	leads := map[types.NamespacedName][]string{}
	for i := range a.slices {
		s := &a.slices[i]
		key := types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
		for _, e := range s.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				leads[key] = append(leads[key], e.Addresses...)
			}
		}
	}
	for i := range a.services {
		s := &a.services[i]
		if len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.PublishNotReadyAddresses {
			continue
		}
		have := leads[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}]
		want := a.readyAddresses(s)
		if i := slices.IndexFunc(have, func(addr string) bool { return !slices.Contains(want, addr) }); i >= 0 {
			return fmt.Sprintf("service %s/%s leads to %s, where no ready pod of it is", s.Namespace, s.Name, have[i])
		}
		if i := slices.IndexFunc(want, func(addr string) bool { return !slices.Contains(have, addr) }); i >= 0 {
			return fmt.Sprintf("service %s/%s does not lead to its pod at %s", s.Namespace, s.Name, want[i])
		}
	}
	return ""
}

// readyAddresses are those of the ready pods behind a Service, in its families.
func (a accounts) readyAddresses(s *corev1.Service) []string {
	selector := labels.SelectorFromSet(s.Spec.Selector)
	var addresses []string
	for i := range a.pods {
		p := &a.pods[i]
		if p.Namespace != s.Namespace || p.DeletionTimestamp != nil || !selector.Matches(labels.Set(p.Labels)) || !isReady(p) {
			continue
		}
		for _, ip := range p.Status.PodIPs {
			family := corev1.IPv4Protocol
			if strings.Contains(ip.IP, ":") {
				family = corev1.IPv6Protocol
			}
			if slices.Contains(s.Spec.IPFamilies, family) {
				addresses = append(addresses, ip.IP)
			}
		}
	}
	return addresses
}

func isReady(p *corev1.Pod) bool {
	return !hasEnded(p) && condition(p, corev1.PodReady).Status == corev1.ConditionTrue
}

func hasEnded(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}
