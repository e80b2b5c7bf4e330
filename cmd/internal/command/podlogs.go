package command

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/ropes-dev/ropes/bootstrap"
)

// sidecar is the proxy's container beside an app.
const sidecar = "istio-proxy"

// shortNames are what people say.
var shortNames = map[string]string{
	"apiserver": "kube-apiserver", "controller-manager": "kube-controller-manager",
	"scheduler": "kube-scheduler", "proxy": "kube-proxy", "dns": "kube-dns", "coredns": "kube-dns",
	"ingress": "istio-ingressgateway", "egress": "istio-egressgateway",
}

// nameLabels name the component that a pod belongs to, the most telling one first.
var nameLabels = []string{"component", "app.kubernetes.io/name", "app", "k8s-app"}

// podComponents lists what runs in pods of ours; learners' pods are kubectl's business.
func (o *logsOptions) podComponents(ctx context.Context, c bootstrap.Cluster) ([]LogComponent, error) {
	pods, _, err := o.pods(ctx, c)
	if err != nil {
		return nil, err
	}
	byName := map[string]int{}
	var list []LogComponent
	for i := range pods {
		name := componentOf(&pods[i])
		at, ok := byName[name]
		if !ok {
			at = len(list)
			byName[name] = at
			list = append(list, LogComponent{Name: name, From: fromPods})
		}
		list[at].Pods = append(list[at].Pods, pods[i].Namespace+"/"+pods[i].Name)
	}
	slices.SortFunc(list, func(a, b LogComponent) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

func (o *logsOptions) pods(ctx context.Context, c bootstrap.Cluster) ([]corev1.Pod, kubernetes.Interface, error) {
	client, err := o.Clients(c.Kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	list, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("the API server does not answer: %w", err)
	}
	ours := []string{"kube-system", "ropes-system"}
	for _, p := range parts {
		ours = append(ours, p.namespace)
	}
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !slices.Contains(ours, p.Namespace) })
	return pods, client, nil
}

func componentOf(p *corev1.Pod) string {
	for _, label := range nameLabels {
		if name := p.Labels[label]; name != "" {
			return name
		}
	}
	return p.Name
}

// stream is the log of one container.
type stream struct{ namespace, pod, container string }

// copyPods writes the logs of a component's pods, one after the other, or mixed line by
// line where they are followed.
func (o *logsOptions) copyPods(ctx context.Context, component LogComponent, container string) error {
	c, err := o.running(ctx)
	if err != nil {
		return err
	}
	pods, client, err := o.pods(ctx, c)
	if err != nil {
		return err
	}
	var streams []stream
	var known []string
	for i := range pods {
		p := &pods[i]
		if !slices.Contains(component.Pods, p.Namespace+"/"+p.Name) {
			continue
		}
		names := containersOf(p)
		known = append(known, names...)
		for _, name := range names {
			if name == container || container == "" && (name != sidecar || len(names) == 1) {
				streams = append(streams, stream{p.Namespace, p.Name, name})
			}
		}
	}
	if len(streams) == 0 {
		slices.Sort(known)
		return usagef("%s has no container %q; it has %s", component.Name, container, strings.Join(slices.Compact(known), ", "))
	}
	if !o.follow {
		for _, s := range streams {
			if err := o.copyStream(ctx, client, s, len(streams) > 1, new(sync.Mutex)); err != nil {
				return err
			}
		}
		return context.Cause(ctx)
	}
	var mu sync.Mutex
	g, following := errgroup.WithContext(ctx)
	for _, s := range streams {
		g.Go(func() error { return o.copyStream(following, client, s, len(streams) > 1, &mu) })
	}
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

// containersOf lists the containers that go on running; sidecars may be init containers.
func containersOf(p *corev1.Pod) []string {
	var names []string
	for i := range p.Spec.InitContainers {
		if r := p.Spec.InitContainers[i].RestartPolicy; r != nil && *r == corev1.ContainerRestartPolicyAlways {
			names = append(names, p.Spec.InitContainers[i].Name)
		}
	}
	for i := range p.Spec.Containers {
		names = append(names, p.Spec.Containers[i].Name)
	}
	return names
}

func (o *logsOptions) copyStream(ctx context.Context, client kubernetes.Interface, s stream, many bool, mu *sync.Mutex) error {
	log, err := client.CoreV1().Pods(s.namespace).GetLogs(s.pod, &corev1.PodLogOptions{Container: s.container, Follow: o.follow}).Stream(ctx)
	if err != nil {
		return fmt.Errorf("log of %s/%s: %w", s.pod, s.container, err)
	}
	defer log.Close()
	prefix := ""
	if many {
		prefix = "[" + s.pod + "/" + s.container + "] "
	}
	r := bufio.NewReader(log)
	for {
		line, err := r.ReadString('\n')
		if line != "" {
			mu.Lock()
			_, werr := io.WriteString(o.Out, prefix+strings.TrimSuffix(line, "\n")+"\n")
			mu.Unlock()
			if werr != nil {
				return werr
			}
		}
		if err == io.EOF || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("log of %s/%s: %w", s.pod, s.container, err)
		}
	}
}
