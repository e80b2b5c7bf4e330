package loadbalancer

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// retryDelay is the pause after a round that could not be finished.
const retryDelay = time.Second

// Router leads addresses to nodes, for all who are outside them.
type Router interface {
	// Lead sends what comes for addr to the node at via. It replaces an earlier lead.
	Lead(addr, via netip.Addr) error
	// Leave ends a lead.
	Leave(addr netip.Addr) error
}

// Controller serves one cluster.
type Controller struct {
	client kubernetes.Interface
	pool   pool
	nodes  map[string]netip.Addr // name -> address on the bridge
	router Router
	log    *slog.Logger

	given map[string]netip.Addr // to each Service, by namespace/name; the cache may not know yet
	leads map[netip.Addr]string // node that each address is led to
	told  map[string]string     // last complaint about a Service, by namespace/name

	services  corelisters.ServiceLister
	endpoints discoverylisters.EndpointSliceLister
	nodeList  corelisters.NodeLister
}

// New returns a controller that hands out the addresses of all of block but its first and last, and
// leads them to the given nodes.
func New(client kubernetes.Interface, block netip.Prefix, nodes map[string]netip.Addr, router Router, log *slog.Logger) *Controller {
	return &Controller{
		client: client, pool: newPool(block), nodes: nodes, router: router, log: log,
		leads: map[netip.Addr]string{}, told: map[string]string{},
	}
}

// Run serves Services until ctx ends. What cannot be done is logged and tried again.
func (c *Controller) Run(ctx context.Context) {
	changed := make(chan struct{}, 1)
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	factory := informers.NewSharedInformerFactory(c.client, 0)
	defer factory.Shutdown() // waits; ctx has ended by then
	services := factory.Core().V1().Services()
	endpoints := factory.Discovery().V1().EndpointSlices()
	nodes := factory.Core().V1().Nodes()
	c.services, c.endpoints, c.nodeList = services.Lister(), endpoints.Lister(), nodes.Lister()
	watch(services.Informer(), func(old, new *corev1.Service) bool { return ours(old) || ours(new) || len(status(new)) > 0 }, poke)
	watch(endpoints.Informer(), func(_, _ *discoveryv1.EndpointSlice) bool { return true }, poke)
	watch(nodes.Informer(), func(old, new *corev1.Node) bool { return old == nil || new == nil || eligible(old) != eligible(new) }, poke)
	factory.Start(ctx.Done())
	for _, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return // ctx has ended
		}
	}
	c.serve(ctx, changed, poke)
}

func (c *Controller) serve(ctx context.Context, changed <-chan struct{}, poke func()) {
	poke()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		if err := c.sync(ctx); err != nil && ctx.Err() == nil {
			c.log.Error("load balancer", "err", err)
			time.AfterFunc(retryDelay, poke)
		}
	}
}

// watch calls poke for what matters. Either object is nil where it did not or does not exist.
func watch[T any](informer cache.SharedIndexInformer, matters func(old, new *T) bool, poke func()) {
	informer.AddEventHandler(cache.ResourceEventHandlerFuncs{ //nolint:errcheck // fails on a stopped informer only
		AddFunc: func(obj any) {
			if o, ok := obj.(*T); ok && matters(nil, o) {
				poke()
			}
		},
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(*T)
			if o, ok2 := after.(*T); ok1 && ok2 && matters(old, o) {
				poke()
			}
		},
		DeleteFunc: func(any) { poke() },
	})
}

// sync brings statuses and leads to what the Services ask for.
func (c *Controller) sync(ctx context.Context) error {
	all, err := c.services.List(labels.Everything())
	if err != nil {
		return err
	}
	c.given = c.assign(ctx, all)
	maps.DeleteFunc(c.told, func(key, _ string) bool {
		_, served := c.given[key]
		return served || !slices.ContainsFunc(all, func(svc *corev1.Service) bool { return keyOf(svc) == key })
	})
	for _, svc := range all {
		if err := c.publish(ctx, svc); err != nil {
			return fmt.Errorf("service %s: %w", keyOf(svc), err)
		}
	}
	return c.lead(all)
}

// lead makes the leads those of the given addresses.
func (c *Controller) lead(all []*corev1.Service) error {
	wanted := map[netip.Addr]bool{}
	for _, svc := range all {
		addr, ok := c.given[keyOf(svc)]
		if !ok {
			continue
		}
		wanted[addr] = true
		name, err := c.choose(svc, addr)
		if err != nil {
			return err
		}
		if name == "" || c.leads[addr] == name {
			continue
		}
		if err := c.router.Lead(addr, c.nodes[name]); err != nil {
			return fmt.Errorf("lead %s to %s: %w", addr, name, err)
		}
		c.leads[addr] = name
		c.log.Info("load balancer", "service", keyOf(svc), "address", addr.String(), "node", name)
	}
	for addr := range c.leads {
		if wanted[addr] {
			continue
		}
		if err := c.router.Leave(addr); err != nil {
			return fmt.Errorf("end the lead of %s: %w", addr, err)
		}
		delete(c.leads, addr)
	}
	return nil
}
