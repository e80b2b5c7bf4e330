package loadbalancer

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// component is the name under which Services are told of their events.
const component = "ropes-load-balancer"

func keyOf(svc *corev1.Service) string { return svc.Namespace + "/" + svc.Name }

// ours tells whether a Service asks this controller for an address.
func ours(svc *corev1.Service) bool {
	return svc != nil && svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil &&
		svc.DeletionTimestamp == nil
}

func status(svc *corev1.Service) []corev1.LoadBalancerIngress {
	if svc == nil {
		return nil
	}
	return svc.Status.LoadBalancer.Ingress
}

// publish writes the given address into a Service's status, and takes one of ours out of
// the status of a Service that no longer has a claim to it.
func (c *Controller) publish(ctx context.Context, svc *corev1.Service) error {
	var want []corev1.LoadBalancerIngress
	addr, ok := c.given[keyOf(svc)]
	switch {
	case ok:
		want = []corev1.LoadBalancerIngress{{IP: addr.String()}}
	case svc.DeletionTimestamp != nil || !slices.ContainsFunc(status(svc), c.gave):
		return nil
	}
	if slices.EqualFunc(want, status(svc), func(a, b corev1.LoadBalancerIngress) bool { return a.IP == b.IP && b.Hostname == "" }) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"loadBalancer": map[string]any{"ingress": want}}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Services(svc.Namespace).Patch(ctx, svc.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// gave tells whether an entry of a status is one of ours.
func (c *Controller) gave(in corev1.LoadBalancerIngress) bool {
	addr, err := netip.ParseAddr(in.IP)
	return err == nil && c.pool.has(addr)
}

// complain tells of a Service that cannot be served, in its events and in the log, once for each reason.
func (c *Controller) complain(ctx context.Context, svc *corev1.Service, why string) {
	if c.told[keyOf(svc)] == why {
		return
	}
	c.told[keyOf(svc)] = why
	c.log.Warn("load balancer", "service", keyOf(svc), "unserved", why)
	now := metav1.Now()
	_, err := c.client.CoreV1().Events(svc.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", svc.Name, now.UnixNano()), Namespace: svc.Namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Service", Namespace: svc.Namespace, Name: svc.Name, UID: svc.UID, ResourceVersion: svc.ResourceVersion,
		},
		Type: corev1.EventTypeWarning, Reason: "NoAddress", Message: why, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: component}, ReportingController: component,
	}, metav1.CreateOptions{})
	if err != nil {
		c.log.Warn("load balancer", "service", keyOf(svc), "event", err)
	}
}

// choose picks the node that serves an address, "" where no node is known.
func (c *Controller) choose(svc *corev1.Service, addr netip.Addr) (string, error) {
	nodes, err := c.nodeList.List(labels.Everything())
	if err != nil {
		return "", err
	}
	local, err := c.local(svc)
	if err != nil {
		return "", err
	}
	best, names := -1, []string(nil)
	for _, n := range nodes {
		if !c.nodes[n.Name].IsValid() {
			continue
		}
		rank := 0
		if local[n.Name] {
			rank += 2
		}
		if eligible(n) {
			rank++
		}
		if rank > best {
			best, names = rank, nil
		}
		if rank == best {
			names = append(names, n.Name)
		}
	}
	if len(names) == 0 {
		return "", nil
	}
	if slices.Contains(names, c.leads[addr]) {
		return c.leads[addr], nil
	}
	slices.Sort(names)
	bytes := addr.As16()
	return names[int(bytes[15])%len(names)], nil
}

// local names the nodes that run a ready endpoint of a Service that wants none but these.
func (c *Controller) local(svc *corev1.Service) (map[string]bool, error) {
	if svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return nil, nil
	}
	list, err := c.endpoints.EndpointSlices(svc.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: svc.Name}))
	if err != nil {
		return nil, fmt.Errorf("endpoints of %s: %w", keyOf(svc), err)
	}
	nodes := map[string]bool{}
	for _, s := range list {
		for _, e := range s.Endpoints {
			if e.NodeName != nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				nodes[*e.NodeName] = true
			}
		}
	}
	return nodes, nil
}

// eligible tells whether a node is Ready and takes part in load balancing.
func eligible(n *corev1.Node) bool {
	if _, out := n.Labels[corev1.LabelNodeExcludeBalancers]; out {
		return false
	}
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
