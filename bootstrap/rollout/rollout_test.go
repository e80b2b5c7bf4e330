package rollout

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// deployment is one named app in namespace ns, of one replica, with the status given.
func deployment(status appsv1.DeploymentStatus) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "app", Generation: 2},
		Spec:       appsv1.DeploymentSpec{Replicas: new(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "app"}}},
		Status:     status,
	}
}

var (
	rolledOut = appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1}
	started   = appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 1, UpdatedReplicas: 1}
	ref       = Deployment{Namespace: "ns", Name: "app"}
)

func pod(status corev1.PodStatus) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "app-1", Labels: map[string]string{"app": "app"}},
		Spec:       corev1.PodSpec{NodeName: "worker"},
		Status:     status,
	}
}

func waiting(container, reason, message string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: container, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}
}

func TestState(t *testing.T) {
	for name, tc := range map[string]struct {
		status appsv1.DeploymentStatus
		pods   []*corev1.Pod
		want   State
	}{
		"rolled out": {rolledOut, nil, State{Ready: 1, Done: true}},
		"not yet seen by the controller": {
			appsv1.DeploymentStatus{ObservedGeneration: 1, Replicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1},
			nil,
			State{Ready: 1, Detail: "pods are not yet ready"},
		},
		"without pods": {appsv1.DeploymentStatus{ObservedGeneration: 2}, nil, State{Detail: "pods are being created"}},
		"with an old pod": {
			appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 2, UpdatedReplicas: 1, AvailableReplicas: 2},
			nil,
			State{Ready: 1, Detail: "old pods are ending"},
		},
		"pods refused": {
			appsv1.DeploymentStatus{ObservedGeneration: 2, Conditions: []appsv1.DeploymentCondition{
				{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Message: `pods "app-" is forbidden: exceeded quota`},
			}},
			nil,
			State{Detail: `pods "app-" is forbidden: exceeded quota`},
		},
		"pod blocked": {
			started,
			[]*corev1.Pod{pod(corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{waiting("main", "ErrImagePull", "no such image")}})},
			State{Detail: "pod app-1, container main: ErrImagePull: no such image"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tc.want.Namespace, tc.want.Name, tc.want.Want = "ns", "app", 1
			if diff := cmp.Diff(tc.want, stateOf(ref, deployment(tc.status), tc.pods), cmpopts.IgnoreUnexported(State{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestBlockedPod(t *testing.T) {
	running := corev1.ContainerStatus{Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	crashed := waiting("main", "CrashLoopBackOff", "back-off 10s")
	crashed.RestartCount = 3
	crashed.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 7}
	done := corev1.ContainerStatus{Name: "setup", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}
	for name, tc := range map[string]struct {
		status corev1.PodStatus
		want   string
		brief  string
	}{
		"unschedulable": {
			corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes"}}},
			"pod app-1: no node takes it: 0/3 nodes", "no node takes it",
		},
		"kubelet silent": {corev1.PodStatus{}, "pod app-1: waits for the kubelet of worker", "waits for its kubelet"},
		"init container": {
			corev1.PodStatus{
				InitContainerStatuses: []corev1.ContainerStatus{done, waiting("init", "ErrImagePull", "")},
				ContainerStatuses:     []corev1.ContainerStatus{waiting("main", "PodInitializing", "")},
			},
			"pod app-1, container init: ErrImagePull", "init: image cannot be pulled",
		},
		"init container at work": {
			corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{{Name: "init", State: running.State}}},
			"pod app-1, container init: runs and has not ended", "init: runs",
		},
		"sidecar up, main not": {
			corev1.PodStatus{
				InitContainerStatuses: []corev1.ContainerStatus{{Name: "proxy", Ready: true, State: running.State}},
				ContainerStatuses:     []corev1.ContainerStatus{running},
			},
			"pod app-1, container main: runs and is not ready", "main: runs and is not ready",
		},
		"crash loop": {
			corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{crashed}},
			"pod app-1, container main: CrashLoopBackOff: back-off 10s (exited with status 7, 3 restarts)", "main: ends again and again",
		},
		"failed": {corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "disk"}, "pod app-1: failed: Evicted disk", "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			b, ok := blockedPod([]*corev1.Pod{pod(tc.status)})
			if !ok || b.reason() != tc.want || b.brief() != tc.brief {
				t.Errorf("got %q (%q), want %q (%q)", b.reason(), b.brief(), tc.want, tc.brief)
			}
		})
	}
}

func TestReadyAndGoingPodsDoNotBlock(t *testing.T) {
	ready := pod(corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}})
	going := pod(corev1.PodStatus{})
	going.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	if b, ok := blockedPod([]*corev1.Pod{ready, going}); ok {
		t.Errorf("%s blocks", b.reason())
	}
}

func TestWaitEndsWhenRolledOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var said []string
		done := make(chan error, 1)
		go func() {
			done <- Wait(t.Context(), client, []Deployment{ref}, func(s string) { said = append(said, s) })
		}()
		time.Sleep(time.Second) // of the bubble's time: the caches sync
		time.Sleep(2 * sayInterval)
		apps := client.AppsV1().Deployments("ns")
		if _, err := apps.Create(t.Context(), deployment(started), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("Wait returned %v before the rollout", err)
		default:
		}
		if _, err := apps.UpdateStatus(t.Context(), deployment(rolledOut), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want := []string{"waiting for app (not there yet)", "waiting for app (pods are not yet ready)"}
		if diff := cmp.Diff(want, said); diff != "" {
			t.Errorf("said (-want +got):\n%s", diff)
		}
	})
}

func TestWaitThatTimesOutNamesTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		crashing := waiting("main", "CrashLoopBackOff", "")
		crashing.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1}
		client := fake.NewClientset(
			deployment(started),
			pod(corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{crashing}}),
			&corev1.Event{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "e"}, Type: corev1.EventTypeWarning, Reason: "BackOff", Message: "again",
				InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "app-1"},
			},
		)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := Wait(ctx, client, []Deployment{ref}, func(string) {})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		for _, want := range []string{"ns/app (0 of 1 pods ready)", "pod app-1, container main: CrashLoopBackOff", "exited with status 1", "last event: BackOff: again", "last log line: fake logs"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not contain %q", err, want)
			}
		}
	})
}

func TestWaitThatIsInterruptedAsksNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(deployment(started))
		interrupted := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() { done <- Wait(ctx, client, []Deployment{ref}, func(string) {}) }()
		synctest.Wait()
		before := len(client.Actions())
		cancel(interrupted)
		if err := <-done; !errors.Is(err, interrupted) {
			t.Errorf("got %v", err)
		}
		if after := len(client.Actions()); after != before {
			t.Errorf("it asked %d questions more", after-before)
		}
	})
}

func TestWaitSaysWhenTheServerDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("connection refused")
		client := fake.NewClientset()
		client.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, refused })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var said []string
		err := Wait(ctx, client, []Deployment{ref}, func(s string) { said = append(said, s) })
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), refused.Error()) {
			t.Errorf("got %v", err)
		}
		if len(said) == 0 || !strings.Contains(said[0], refused.Error()) {
			t.Errorf("said %q", said)
		}
	})
}

func TestAlikeKeepsOrder(t *testing.T) {
	var states []State
	for _, s := range []struct{ name, brief string }{{"a", "x"}, {"b", "y"}, {"c", "x"}} {
		state := State{Name: s.name}
		state.because(s.brief, s.brief)
		states = append(states, state)
	}
	var got [][]string
	for _, group := range alike(states) {
		var names []string
		for _, s := range group {
			names = append(names, s.Name)
		}
		got = append(got, names)
	}
	if diff := cmp.Diff([][]string{{"a", "c"}, {"b"}}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestInspect(t *testing.T) {
	client := fake.NewClientset(deployment(started), pod(corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{waiting("main", "ContainerCreating", "")}}))
	got, err := Inspect(t.Context(), client, []Deployment{ref, {Namespace: "ns", Name: "other"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []State{
		{Namespace: "ns", Name: "app", Want: 1, Detail: "pod app-1, container main: ContainerCreating"},
		{Namespace: "ns", Name: "other", Want: 1, Detail: "the Deployment does not exist"},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(State{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
