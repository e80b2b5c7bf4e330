package netpol

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
)

// objects are the API's objects, kept up to date by watches.
type objects struct {
	pods       corelisters.PodLister
	namespaces corelisters.NamespaceLister
	policies   networkinglisters.NetworkPolicyLister
	synced     []cache.InformerSynced
	factory    informers.SharedInformerFactory
}

// watch prepares the watches; every event calls touch.
func watch(client kubernetes.Interface, touch func()) (*objects, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(slim))
	core, policies := factory.Core().V1(), factory.Networking().V1().NetworkPolicies()
	o := &objects{
		pods: core.Pods().Lister(), namespaces: core.Namespaces().Lister(), policies: policies.Lister(),
		factory: factory,
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { touch() },
		UpdateFunc: func(_, _ any) { touch() },
		DeleteFunc: func(any) { touch() },
	}
	for _, i := range []cache.SharedIndexInformer{core.Pods().Informer(), core.Namespaces().Informer(), policies.Informer()} {
		if _, err := i.AddEventHandler(handler); err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		o.synced = append(o.synced, i.HasSynced)
	}
	return o, nil
}

// start begins to watch and returns once everything has been listed, or false where
// ctx ends before that.
func (o *objects) start(ctx context.Context) bool {
	o.factory.Start(ctx.Done())
	return cache.WaitForCacheSync(ctx.Done(), o.synced...)
}

// stop returns when the watches, whose ctx has ended, have ended too.
func (o *objects) stop() { o.factory.Shutdown() }

// snapshot is the objects of the moment, as the rules of the node need them.
func (o *objects) snapshot(node string) Snapshot {
	s := Snapshot{Node: node, Namespaces: map[string]labels.Set{}}
	// Listing from a cache with a selector that matches everything cannot fail.
	pods, _ := o.pods.List(labels.Everything())
	for _, p := range pods {
		if pod, ok := newPod(p); ok {
			s.Pods = append(s.Pods, pod)
		}
	}
	namespaces, _ := o.namespaces.List(labels.Everything())
	for _, n := range namespaces {
		s.Namespaces[n.Name] = n.Labels
	}
	s.Policies, _ = o.policies.List(labels.Everything())
	return s
}

// slim drops what no rule depends on, so that an agent stays small beside many pods.
func slim(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Pod:
		return slimPod(o), nil
	case *corev1.Namespace:
		return &corev1.Namespace{ObjectMeta: slimMeta(o.ObjectMeta)}, nil
	case *networkingv1.NetworkPolicy:
		o.ManagedFields, o.Annotations = nil, nil
	}
	return object, nil
}

func slimMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, Labels: m.Labels}
}

func slimPod(p *corev1.Pod) *corev1.Pod {
	ports := func(containers []corev1.Container) (out []corev1.Container) {
		for _, c := range containers {
			if len(c.Ports) > 0 {
				out = append(out, corev1.Container{Name: c.Name, Ports: c.Ports, RestartPolicy: c.RestartPolicy})
			}
		}
		return out
	}
	return &corev1.Pod{
		ObjectMeta: slimMeta(p.ObjectMeta),
		Spec: corev1.PodSpec{
			NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork,
			Containers: ports(p.Spec.Containers), InitContainers: ports(p.Spec.InitContainers),
		},
		Status: corev1.PodStatus{Phase: p.Status.Phase, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs},
	}
}
