package podnetwork

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"sigs.k8s.io/knftables"

	"github.com/ropes-dev/ropes/bootstrap/embedded/apiclient"
)

const (
	// conflist is where containerd finds the configuration.
	conflist = "/etc/cni/net.d/10-ropes.conflist"
	table    = "ropes-pod-network"
	// protocol marks the routes as ours, see rtnetlink(7).
	protocol = 114
	// retryEvery is the time between attempts at what could not be done.
	retryEvery = 2 * time.Second
)

// Main serves the node named by $NODE_NAME until ctx ends, and leaves everything in
// place then. It must run in the node's network namespace with CAP_NET_ADMIN, the
// node's /etc/cni/net.d at the same place, and finds the program nft on PATH.
func Main(ctx context.Context, args []string, log *slog.Logger) error {
	node := os.Getenv("NODE_NAME")
	if len(args) > 0 || node == "" {
		return errors.New("pod-network: takes no arguments and needs NODE_NAME")
	}
	klog.SetSlogLogger(log)
	nft, err := knftables.New(knftables.IPv4Family, table)
	if err != nil {
		return fmt.Errorf("pod-network: use nftables: %w", err)
	}
	client, err := apiclient.New("")
	if err != nil {
		return fmt.Errorf("pod-network: %w", err)
	}
	changed := make(chan struct{}, 1)
	touch := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	nodes := factory.Core().V1().Nodes()
	_, err = nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { touch() },
		UpdateFunc: func(any, any) { touch() },
		DeleteFunc: func(any) { touch() },
	})
	if err != nil {
		return fmt.Errorf("pod-network: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	factory.WaitForCacheSync(ctx.Done())
	a := agent{node: node, nft: nft, log: log}
	for {
		list, err := nodes.Lister().List(labels.Everything())
		if err == nil {
			err = a.apply(ctx, list)
		}
		retry := time.NewTimer(retryEvery)
		if err != nil {
			log.Error("pod network is not as it should be", "error", err)
		} else {
			retry.Stop()
		}
		select {
		case <-ctx.Done():
			retry.Stop()
			return nil
		case <-changed:
			retry.Stop()
		case <-retry.C:
		}
	}
}

// agent holds what was last put in place.
type agent struct {
	node string
	nft  knftables.Interface
	log  *slog.Logger
	last string
}

func (a *agent) apply(ctx context.Context, nodes []*corev1.Node) error {
	p, err := plan(a.node, nodes)
	if err != nil {
		return err
	}
	if fmt.Sprint(p) == a.last {
		return nil
	}
	if err := route(p); err != nil {
		return err
	}
	if err := a.nft.Run(ctx, masquerade(a.nft, p)); err != nil {
		return fmt.Errorf("masquerade: %w", err)
	}
	// Last, for it is what makes the node ready for pods.
	if err := write(conflist, p.cni()); err != nil {
		return err
	}
	a.log.Info("pod network is in place", "pods", p.Pods, "routes", len(p.Routes))
	a.last = fmt.Sprint(p)
	return nil
}

// route lays the plan's routes and takes away ours that are not in it.
func route(p Plan) error {
	want := map[string]bool{}
	for _, r := range p.Routes {
		dst := &net.IPNet{IP: r.Pods.Addr().AsSlice(), Mask: net.CIDRMask(r.Pods.Bits(), 32)}
		want[dst.String()] = true
		if err := netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: r.Via.AsSlice(), Protocol: protocol}); err != nil {
			return fmt.Errorf("route to %s by %s: %w", r.Pods, r.Via, err)
		}
	}
	have, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for i := range have {
		if have[i].Dst != nil && !want[have[i].Dst.String()] {
			if err := netlink.RouteDel(&have[i]); err != nil {
				return fmt.Errorf("remove the route to %s: %w", have[i].Dst, err)
			}
		}
	}
	return nil
}

// masquerade replaces the table by rules that give what leaves the cluster from a pod
// the node's address.
func masquerade(nft knftables.Interface, p Plan) *knftables.Transaction {
	tx := nft.NewTransaction()
	t := &knftables.Table{Comment: knftables.PtrTo("the way out for this node's pods, by ropes")}
	tx.Add(t)
	tx.Delete(t)
	tx.Add(t)
	tx.Add(&knftables.Set{Name: "inside", Type: "ipv4_addr", Flags: []knftables.SetFlag{knftables.IntervalFlag}})
	for _, in := range p.Inside {
		tx.Add(&knftables.Element{Set: "inside", Key: []string{in.String()}})
	}
	chain := &knftables.Chain{
		Name: "postrouting", Type: knftables.PtrTo(knftables.NATType), Hook: knftables.PtrTo(knftables.PostroutingHook),
		Priority: knftables.PtrTo(knftables.SNATPriority),
	}
	tx.Add(chain)
	tx.Add(&knftables.Rule{Chain: chain.Name, Rule: knftables.Concat("ip saddr", p.Pods, "ip daddr != @inside masquerade")})
	return tx
}

// write replaces the file in one step, and only where it says something else.
func write(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// containerd reads whatever ends in .conflist, so the draft does not.
	draft := path + ".draft"
	if err := os.WriteFile(draft, data, 0o644); err != nil {
		return err
	}
	return os.Rename(draft, path)
}
