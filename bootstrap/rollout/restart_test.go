package rollout

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
)

func TestStale(t *testing.T) {
	boot := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	pod := func(name, node string, since time.Time) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
		s := corev1.ContainerStatus{}
		if !since.IsZero() {
			s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(since)}
		}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{s}
		return p
	}
	// Its kubelet will not start it again, whatever its containers are said to do.
	ended := pod("ended", "w1", boot.Add(-time.Minute))
	ended.Status.Phase = corev1.PodFailed
	got := stale([]corev1.Pod{
		ended,
		pod("before", "w1", boot.Add(-time.Minute)), pod("same-second", "w1", boot.Truncate(time.Second)), pod("after", "w1", boot.Add(time.Second)),
		pod("waiting", "w1", time.Time{}), pod("unscheduled", "", boot.Add(-time.Minute)), pod("other-node", "w2", boot.Add(-time.Minute)),
	}, map[string]time.Time{"w1": boot, "w2": boot.Add(-time.Hour)})
	if diff := cmp.Diff([]string{"ns/before"}, got); diff != "" {
		t.Error(diff)
	}
}

// cluster is a cluster of one app that has come to rest: a Deployment of two pods and a
// Service before it.
func cluster() accounts {
	meta := func(name string, owner types.UID) metav1.ObjectMeta {
		m := metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("of-" + name), Labels: map[string]string{"app": "web"}}
		if owner != "" {
			m.OwnerReferences = []metav1.OwnerReference{{UID: owner, Controller: new(true)}}
		}
		return m
	}
	pod := func(name, ip string) corev1.Pod {
		return corev1.Pod{ObjectMeta: meta(name, "of-rs"), Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: ip}, {IP: "fd00::" + ip[len(ip)-1:]}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		}}
	}
	service := corev1.Service{ObjectMeta: meta("web", ""), Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "web"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
	}}
	slice := discoveryv1.EndpointSlice{ObjectMeta: meta("web-abc", ""), Endpoints: []discoveryv1.Endpoint{
		{Addresses: []string{"10.0.0.1"}},
		{Addresses: []string{"10.0.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}},
		{Addresses: []string{"10.0.0.9"}, Conditions: discoveryv1.EndpointConditions{Ready: new(false)}},
	}}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: sliceController}
	outside := corev1.Service{ObjectMeta: meta("outside", ""), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}}
	return accounts{
		pods:        []corev1.Pod{pod("a", "10.0.0.1"), pod("b", "10.0.0.2")},
		services:    []corev1.Service{service, outside},
		slices:      []discoveryv1.EndpointSlice{slice},
		replicaSets: []appsv1.ReplicaSet{{ObjectMeta: meta("rs", "of-deploy"), Status: appsv1.ReplicaSetStatus{ReadyReplicas: 2}}},
		deployments: []appsv1.Deployment{{ObjectMeta: meta("deploy", ""), Status: appsv1.DeploymentStatus{ReadyReplicas: 2}}},
		daemonSets:  []appsv1.DaemonSet{{ObjectMeta: meta("agents", "")}},
	}
}

func TestBehind(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*accounts)
		want  string
	}{
		"nothing": {func(*accounts) {}, ""},
		"a pod that was ready is not": {func(a *accounts) {
			a.pods[1].Status.Conditions[0].Status = corev1.ConditionFalse
		}, "replica set ns/rs is counted as ready with pods that are not"},
		"a deployment lags behind its replica set": {func(a *accounts) {
			a.pods[1].Status.Conditions[0].Status = corev1.ConditionFalse
			a.replicaSets[0].Status.ReadyReplicas = 1
		}, "deployment ns/deploy is counted as ready with pods that are not"},
		"a daemon set": {func(a *accounts) { a.daemonSets[0].Status.NumberReady = 1 }, "daemon set ns/agents is counted as ready with pods that are not"},
		"a daemon set counts a pod that goes": {func(a *accounts) {
			a.pods[1].OwnerReferences[0].UID = "of-agents"
			a.pods[1].DeletionTimestamp = &metav1.Time{}
			a.daemonSets[0].Status.NumberReady = 1
			a.replicaSets[0].Status.ReadyReplicas, a.deployments[0].Status.ReadyReplicas = 1, 1
			a.slices[0].Endpoints = a.slices[0].Endpoints[:1]
		}, ""},
		"a daemon set that goes is counted no more": {func(a *accounts) {
			a.daemonSets[0].DeletionTimestamp = &metav1.Time{}
			a.daemonSets[0].Status.NumberReady = 1
		}, ""},
		"fewer counted than are ready": {func(a *accounts) {
			a.replicaSets[0].Status.ReadyReplicas, a.deployments[0].Status.ReadyReplicas = 0, 0
		}, ""},
		"a pod has another address": {func(a *accounts) { a.pods[0].Status.PodIPs[0].IP = "10.0.0.7" }, "service ns/web leads to 10.0.0.1, where no ready pod of it is"},
		"a pod is missing":          {func(a *accounts) { a.slices[0].Endpoints = a.slices[0].Endpoints[1:] }, "service ns/web does not lead to its pod at 10.0.0.1"},
		"a pod that goes is left out": {func(a *accounts) {
			a.pods[0].DeletionTimestamp = &metav1.Time{}
			a.replicaSets[0].Status.ReadyReplicas, a.deployments[0].Status.ReadyReplicas = 1, 1
		}, "service ns/web leads to 10.0.0.1, where no ready pod of it is"},
		"a pod that has ended is left out": {func(a *accounts) {
			a.pods[0].Status.Phase = corev1.PodSucceeded
			a.replicaSets[0].Status.ReadyReplicas, a.deployments[0].Status.ReadyReplicas = 1, 1
			a.slices[0].Endpoints = a.slices[0].Endpoints[1:]
		}, ""},
		"addresses are published before pods are ready": {func(a *accounts) {
			a.services[0].Spec.PublishNotReadyAddresses = true
			a.slices[0].Endpoints = nil
		}, ""},
		"a selector that fits nothing": {func(a *accounts) {
			a.services[0].Spec.Selector = map[string]string{"app": "wbe"}
			a.slices[0].Endpoints = nil
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := cluster()
			tc.spoil(&a)
			if got := a.behind(nil); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestAwaitRestart(t *testing.T) {
	a := cluster()
	client := fake.NewClientset(&a.pods[0], &a.pods[1], &a.services[0], &a.slices[0], &a.replicaSets[0], &a.deployments[0], &a.daemonSets[0])
	var said []string
	say := func(s string) {
		said = append(said, s)
		old := a.slices[0].DeepCopy()
		old.Endpoints = cluster().slices[0].Endpoints
		if _, err := client.DiscoveryV1().EndpointSlices("ns").Update(t.Context(), old, metav1.UpdateOptions{}); err != nil {
			t.Error(err)
		}
	}
	behind := a.slices[0].DeepCopy()
	behind.Endpoints[0].Addresses[0] = "10.0.0.8"
	if _, err := client.DiscoveryV1().EndpointSlices("ns").Update(t.Context(), behind, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := AwaitRestart(t.Context(), client, nil, say); err != nil {
		t.Error(err)
	}
	if len(said) != 1 || !strings.Contains(said[0], "10.0.0.8") {
		t.Errorf("said %q", said)
	}
}
