package rollout

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// blocked is a pod that is not ready, and the container that keeps it so.
type blocked struct {
	pod       *corev1.Pod
	container string // empty where the pod as a whole is what waits
	short     string // why in a few words
	why       string
	ran       bool // the container has run, so that there is a log
	previous  bool // the log worth reading is that of the run before
}

// reason names pod, container and what is the matter.
func (b blocked) reason() string {
	if b.container == "" {
		return fmt.Sprintf("pod %s: %s", b.pod.Name, b.why)
	}
	return fmt.Sprintf("pod %s, container %s: %s", b.pod.Name, b.container, b.why)
}

// brief names the container where it is not the pod as a whole, and what is the matter.
func (b blocked) brief() string {
	if b.container == "" {
		return b.short
	}
	return b.container + ": " + b.short
}

// blockedPod picks the youngest pod that is not ready and says what it waits for.
func blockedPod(pods []*corev1.Pod) (blocked, bool) {
	waiting := slices.DeleteFunc(slices.Clone(pods), func(p *corev1.Pod) bool {
		return p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || condition(p, corev1.PodReady).Status == corev1.ConditionTrue
	})
	if len(waiting) == 0 {
		return blocked{}, false
	}
	pod := slices.MaxFunc(waiting, func(a, b *corev1.Pod) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return explainPod(pod), true
}

func explainPod(pod *corev1.Pod) blocked {
	if c := condition(pod, corev1.PodScheduled); c.Status == corev1.ConditionFalse {
		return blocked{pod: pod, short: "no node takes it", why: "no node takes it: " + c.Message}
	}
	for _, cs := range pod.Status.InitContainerStatuses {
		if cs.Ready || (cs.State.Terminated != nil && cs.State.Terminated.ExitCode == 0) {
			continue
		}
		b := explainContainer(pod, cs)
		if cs.State.Running != nil && !outlives(pod, cs.Name) {
			b.short, b.why = "runs", "runs and has not ended"
		}
		return b
	}
	for _, cs := range pod.Status.ContainerStatuses {
		if !cs.Ready {
			return explainContainer(pod, cs)
		}
	}
	if pod.Status.Phase == corev1.PodFailed {
		return blocked{pod: pod, short: "failed", why: strings.TrimSpace("failed: " + pod.Status.Reason + " " + pod.Status.Message)}
	}
	if pod.Spec.NodeName == "" {
		return blocked{pod: pod, short: "waits for a node", why: "waits for a node"}
	}
	return blocked{pod: pod, short: "waits for its kubelet", why: "waits for the kubelet of " + pod.Spec.NodeName}
}

// outlives tells whether an init container is one of those that go on as sidecars.
func outlives(pod *corev1.Pod, container string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
		return c.Name == container && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	})
}

func explainContainer(pod *corev1.Pod, cs corev1.ContainerStatus) blocked {
	b := blocked{pod: pod, container: cs.Name}
	switch {
	case cs.State.Waiting != nil:
		b.short = inShort(cs.State.Waiting.Reason)
		b.why = cs.State.Waiting.Reason
		if m := cs.State.Waiting.Message; m != "" {
			b.why += ": " + m
		}
		if last := cs.LastTerminationState.Terminated; last != nil {
			b.why += fmt.Sprintf(" (exited with status %d, %d restarts)", last.ExitCode, cs.RestartCount)
			b.ran, b.previous = true, true
		}
	case cs.State.Terminated != nil:
		b.why = fmt.Sprintf("%s, exited with status %d", cs.State.Terminated.Reason, cs.State.Terminated.ExitCode)
		b.short = fmt.Sprintf("exited with status %d", cs.State.Terminated.ExitCode)
		b.ran = true
	case cs.State.Running != nil:
		b.short, b.why = "runs and is not ready", "runs and is not ready"
		b.ran = true
	default:
		b.short, b.why = "has not been started", "has not been started"
	}
	return b
}

// inShort gives reasons that the kubelet reports in turns, for one and the same trouble, one name.
func inShort(reason string) string {
	switch reason {
	case "ErrImagePull", "ImagePullBackOff":
		return "image cannot be pulled"
	case "CrashLoopBackOff":
		return "ends again and again"
	case "ContainerCreating", "PodInitializing":
		return "being made"
	}
	return reason
}

func condition(pod *corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.PodCondition{Status: corev1.ConditionUnknown}
}

// explain asks for what the pod's status does not say: the last warning and the last line
// of the log. What cannot be had is left out.
func (w *watcher) explain(ctx context.Context, client kubernetes.Interface, s State) string {
	space := w.spaces[s.Namespace]
	d, err := space.deployments.Get(s.Name)
	if err != nil {
		return ""
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return ""
	}
	pods, _ := space.pods.List(selector) // a cache does not fail
	b, ok := blockedPod(pods)
	if !ok {
		return ""
	}
	var parts []string
	if event := lastWarning(ctx, client, b.pod); event != "" {
		parts = append(parts, "last event: "+event)
	}
	if b.ran {
		if line := lastLine(ctx, client, b); line != "" {
			parts = append(parts, "last log line: "+line)
		}
	}
	return strings.Join(parts, "; ")
}

func lastWarning(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) string {
	list, err := client.CoreV1().Events(pod.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.kind=Pod,involvedObject.name=" + pod.Name,
	})
	if err != nil {
		return ""
	}
	var last *corev1.Event
	for i := range list.Items {
		e := &list.Items[i]
		if e.Type == corev1.EventTypeWarning && e.InvolvedObject.Name == pod.Name && (last == nil || !e.LastTimestamp.Before(&last.LastTimestamp)) {
			last = e
		}
	}
	if last == nil {
		return ""
	}
	return last.Reason + ": " + strings.TrimSpace(last.Message)
}

// logTail is how much of a log is read to find its last line, in bytes.
const logTail = 4096

func lastLine(ctx context.Context, client kubernetes.Interface, b blocked) string {
	one, limit := int64(1), int64(logTail)
	stream, err := client.CoreV1().Pods(b.pod.Namespace).GetLogs(b.pod.Name, &corev1.PodLogOptions{
		Container: b.container, Previous: b.previous, TailLines: &one, LimitBytes: &limit,
	}).Stream(ctx)
	if err != nil {
		return ""
	}
	text, readErr := io.ReadAll(stream)
	if err := stream.Close(); err != nil || readErr != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
