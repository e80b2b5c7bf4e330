package netpol

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Snapshot is what a node's rules follow from.
type Snapshot struct {
	Node       string // name of the node to make rules for
	Pods       []Pod
	Namespaces map[string]labels.Set // labels by name
	Policies   []*networkingv1.NetworkPolicy
}

// Pod is what a policy can see of a pod: one that has not ended and has an IPv4
// address of its own.
type Pod struct {
	Namespace, Name string
	Node            string
	IP              netip.Addr
	Labels          labels.Set
	Ports           []NamedPort
}

// NamedPort is a container port that has a name.
type NamedPort struct {
	Name     string
	Protocol corev1.Protocol
	Number   uint16
}

// newPod reads a pod object. ok is false where no policy can apply to it: it has no
// IPv4 address, has ended, or is on the host network.
func newPod(p *corev1.Pod) (pod Pod, ok bool) {
	if p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return Pod{}, false
	}
	ip, ok := podIPv4(p)
	if !ok {
		return Pod{}, false
	}
	return Pod{
		Namespace: p.Namespace, Name: p.Name, Node: p.Spec.NodeName,
		IP: ip, Labels: p.Labels, Ports: namedPorts(p),
	}, true
}

func podIPv4(p *corev1.Pod) (netip.Addr, bool) {
	for _, s := range append([]corev1.PodIP{{IP: p.Status.PodIP}}, p.Status.PodIPs...) {
		if ip, err := netip.ParseAddr(s.IP); err == nil && ip.Is4() {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// namedPorts lists the named ports of the containers that run beside each other: the
// regular ones and the init containers that stay, which is how sidecars are written.
func namedPorts(p *corev1.Pod) (ports []NamedPort) {
	containers := p.Spec.Containers
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(slices.Clip(containers), c)
		}
	}
	for _, c := range containers {
		for _, port := range c.Ports {
			if port.Name == "" {
				continue
			}
			ports = append(ports, NamedPort{
				Name: port.Name, Protocol: cmp.Or(port.Protocol, corev1.ProtocolTCP), Number: uint16(port.ContainerPort),
			})
		}
	}
	return ports
}
