package command

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/rollout"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Health is how a cluster is, as its API server tells.
type Health struct {
	Ready      bool        `json:"ready"` // all nodes and all components are
	Nodes      []Node      `json:"nodes"`
	Components []Component `json:"components"`
}

// Node is one node of the cluster.
type Node struct {
	Name    string `json:"name"`
	Role    string `json:"role"` // control-plane or worker
	Ready   bool   `json:"ready"`
	Version string `json:"version"`          // of its kubelet
	Detail  string `json:"detail,omitempty"` // why it is not ready
}

// Component is a part of the mesh or one of the sample apps.
type Component struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Ready     bool   `json:"ready"`
	Pods      int32  `json:"pods"`             // ready
	Want      int32  `json:"want"`             // asked for
	Detail    string `json:"detail,omitempty"` // what is missing
}

type part struct{ name, namespace, deployment string }

// parts are the components that up installs, by namespace. Without a deployment's name a
// part is all that Helm put into the namespace: what learners add there is theirs.
var parts = []part{
	{"istiod", "istio-system", "istiod"},
	{"ingress gateway", "istio-ingress", "istio-ingressgateway"},
	{"egress gateway", "istio-egress", "istio-egressgateway"},
	{"bookinfo", "bookinfo", ""},
	{"httpbin", "httpbin", ""},
	{"client", "client", ""},
	{"outside", "outside", ""},
}

// helmRelease is the annotation that Helm puts on what it installs.
const helmRelease = "meta.helm.sh/release-name"

// inspect asks the cluster's API server how nodes and components are.
func (d *Deps) inspect(ctx context.Context, c bootstrap.Cluster) (Health, error) {
	client, err := d.Clients(c.Kubeconfig)
	if err != nil {
		return Health{}, err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return Health{}, fmt.Errorf("the API server does not answer: %w", err)
	}
	deployments, err := client.AppsV1().Deployments("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return Health{}, fmt.Errorf("the API server does not answer: %w", err)
	}
	h := Health{Ready: true}
	want := parts
	if c.OtherIstio { // where it is and what it consists of is its owner's to know
		want = slices.DeleteFunc(slices.Clone(parts), func(p part) bool { return strings.HasPrefix(p.namespace, "istio-") })
	}
	for i := range nodes.Items {
		n := nodeOf(&nodes.Items[i])
		h.Ready = h.Ready && n.Ready
		h.Nodes = append(h.Nodes, n)
	}
	for _, name := range c.Nodes {
		if !slices.ContainsFunc(h.Nodes, func(n Node) bool { return n.Name == name }) {
			h.Nodes = append(h.Nodes, Node{Name: name, Detail: "not registered"})
			h.Ready = false
		}
	}
	for _, p := range want {
		comp := Component{Name: p.name, Namespace: p.namespace}
		var refs []rollout.Deployment
		for i := range deployments.Items {
			dep := &deployments.Items[i]
			if dep.Namespace == p.namespace && (dep.Name == p.deployment || p.deployment == "" && dep.Annotations[helmRelease] != "") {
				refs = append(refs, rollout.Deployment{Namespace: dep.Namespace, Name: dep.Name})
				comp.add(dep)
			}
		}
		if err := comp.judge(ctx, client, refs); err != nil {
			return Health{}, err
		}
		h.Ready = h.Ready && comp.Ready
		h.Components = append(h.Components, comp)
	}
	return h, nil
}

func (c *Component) add(d *appsv1.Deployment) {
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	c.Want += want
	c.Pods += min(d.Status.AvailableReplicas, d.Status.UpdatedReplicas)
}

// judge asks for details only where there is something to explain.
func (c *Component) judge(ctx context.Context, client kubernetes.Interface, refs []rollout.Deployment) error {
	switch {
	case len(refs) == 0:
		c.Detail = "not installed"
		return nil
	case c.Want == 0:
		c.Detail = "scaled to zero"
		return nil
	case c.Pods >= c.Want:
		c.Ready = true
		return nil
	}
	states, err := rollout.Inspect(ctx, client, refs)
	if err != nil {
		return err
	}
	var details []string
	for _, s := range states {
		if !s.Done && s.Detail != "" {
			details = append(details, s.Name+": "+s.Detail)
		}
	}
	c.Detail = strings.Join(details, "; ")
	return nil
}

func nodeOf(n *corev1.Node) Node {
	node := Node{Name: n.Name, Role: "worker", Version: n.Status.NodeInfo.KubeletVersion}
	if _, ok := n.Labels["node-role.kubernetes.io/control-plane"]; ok {
		node.Role = "control-plane"
	}
	node.Detail = "has not reported"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			node.Ready = c.Status == corev1.ConditionTrue
			node.Detail = c.Message
		}
	}
	if node.Ready {
		node.Detail = ""
		if n.Spec.Unschedulable {
			node.Detail = "cordoned"
		}
	}
	return node
}
