package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/ropes-dev/ropes/checks"
)

// target is one container of one running pod.
type target struct{ namespace, pod, container string }

func (t target) String() string {
	return fmt.Sprintf("container %s of pod %s/%s", t.container, t.namespace, t.pod)
}

// place finds the container that a probe is sent from. missing says in words why there is
// none, which is an observation like any other: the learner may yet have to make it.
func (p *Prober) place(ctx context.Context, at checks.Place) (t target, missing string, err error) {
	v, err := p.cluster.Read(ctx, checks.ObjectRef{APIVersion: "v1", Kind: "Pod", Namespace: at.Namespace, Name: at.Pod, Selector: at.Selector})
	if err != nil {
		return target{}, "", err
	}
	items, isList := v.([]any)
	if !isList && v != nil {
		items = []any{v}
	}
	what := "pod " + at.Pod
	if at.Pod == "" {
		what = "pod with " + at.Selector
	}
	missing = fmt.Sprintf("there is no %s in namespace %s", what, at.Namespace)
	for _, item := range items {
		var pod corev1.Pod
		obj, _ := item.(map[string]any)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj, &pod); err != nil {
			return target{}, "", fmt.Errorf("pod in namespace %s: %w", at.Namespace, err)
		}
		container, why := runningContainer(&pod, at.Container)
		if why == "" {
			return target{pod.Namespace, pod.Name, container}, "", nil
		}
		missing = fmt.Sprintf("pod %s in namespace %s %s", pod.Name, pod.Namespace, why)
	}
	return target{}, missing, nil
}

// runningContainer names the container to exec into, or says why there is none. Unnamed,
// it is the first of the pod's own, as kubectl exec chooses.
func runningContainer(pod *corev1.Pod, name string) (container, why string) {
	if pod.DeletionTimestamp != nil {
		return "", "is being deleted"
	}
	if name == "" {
		name = pod.Annotations["kubectl.kubernetes.io/default-container"]
	}
	if name == "" && len(pod.Spec.Containers) > 0 {
		name = pod.Spec.Containers[0].Name
	}
	for _, cs := range pod.Status.ContainerStatuses {
		if cs.Name != name {
			continue
		}
		if cs.State.Running == nil {
			return "", fmt.Sprintf("is not running yet (container %s: %s)", name, stateOf(cs.State))
		}
		return name, ""
	}
	if pod.Status.Phase != corev1.PodRunning {
		return "", "is " + strings.ToLower(string(pod.Status.Phase))
	}
	return "", "has no running container " + name
}

func stateOf(s corev1.ContainerState) string {
	switch {
	case s.Waiting != nil:
		return s.Waiting.Reason
	case s.Terminated != nil:
		return "terminated, " + s.Terminated.Reason
	}
	return "unknown"
}

// executor runs a program in a container. The error is an exitError where the program
// ended with another status than 0, and any other error where it could not be run.
type executor interface {
	Exec(ctx context.Context, at target, command []string, stdin io.Reader, stdout, stderr io.Writer) error
}

// exitError is a program's exit status, never 0.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// remote is exec through the API server, by WebSocket and where the server has none by SPDY.
type remote struct{ cfg *rest.Config }

// Exec implements executor.
func (r remote) Exec(ctx context.Context, at target, command []string, stdin io.Reader, stdout, stderr io.Writer) error {
	cfg := rest.CopyConfig(r.cfg)
	cfg.GroupVersion, cfg.APIPath = &corev1.SchemeGroupVersion, "/api"
	cfg.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	client, err := rest.RESTClientFor(cfg)
	if err != nil {
		return fmt.Errorf("exec in %s: %w", at, err)
	}
	u := client.Post().Resource("pods").Namespace(at.namespace).Name(at.pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: at.container, Command: command, Stdin: stdin != nil, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec).URL()
	ws, err := remotecommand.NewWebSocketExecutor(cfg, "GET", u.String())
	if err != nil {
		return fmt.Errorf("exec in %s: %w", at, err)
	}
	spdy, err := remotecommand.NewSPDYExecutor(cfg, "POST", u)
	if err != nil {
		return fmt.Errorf("exec in %s: %w", at, err)
	}
	both, err := remotecommand.NewFallbackExecutor(ws, spdy, noWebSocket)
	if err != nil {
		return fmt.Errorf("exec in %s: %w", at, err)
	}
	err = both.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: stdout, Stderr: stderr})
	return execError(at, command[0], err)
}

// noWebSocket tells whether an exec failed because something between here and the kubelet
// speaks no WebSocket.
func noWebSocket(err error) bool {
	return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
}

// execError tells a program's exit status from a program that could not be run.
func execError(at target, program string, err error) error {
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.Exited():
		return exitError(exit.ExitStatus())
	case strings.Contains(err.Error(), "executable file not found"), strings.Contains(err.Error(), "no such file or directory"):
		return noProgramError{at, program}
	}
	return fmt.Errorf("exec in %s: %w", at, err)
}

// noProgramError says that a container lacks the program that a probe runs in it.
type noProgramError struct {
	at      target
	program string
}

func (e noProgramError) Error() string {
	return fmt.Sprintf("%s has no program %q, so it cannot be asked from there", e.at, e.program)
}

// Mend implements checks.Mender.
func (e noProgramError) Mend() string {
	return "Run the pod with image ropes.local/app:v1, which has the tools."
}
