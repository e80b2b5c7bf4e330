package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/embedded/kubeadm"
	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
)

// pollAPI is how often a condition without a watch is looked at.
const pollAPI = 100 * time.Millisecond

// awaitAPI waits until the API server says that it is ready.
func awaitAPI(ctx context.Context, client clientset.Interface, say func(string)) error {
	return bootstrap.Poll(ctx, pollAPI, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err != nil {
			say("API server: " + err.Error())
		}
		return err
	})
}

// retryAddons applies kubeadm's add-ons; a control plane that has just come up may
// still refuse a request or two.
func retryAddons(ctx context.Context, cfg *state.Config, client clientset.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return bootstrap.Poll(ctx, 500*time.Millisecond, func(ctx context.Context) error {
		return kubeadm.Addons(ctx, cfg, client)
	})
}

// registrar gives each node that registers the pod addresses of the plan, for as long
// as the cluster lives, and knows who has not come yet.
type registrar struct {
	client clientset.Interface
	plan   map[string]string // node name -> pod CIDR
	log    *slog.Logger

	mu      sync.Mutex
	missing map[string]bool
	changed chan struct{}
}

func (s *supervisor) registrar(ctx context.Context, client clientset.Interface) *registrar {
	r := &registrar{
		client: client, log: s.log, plan: map[string]string{},
		missing: map[string]bool{}, changed: make(chan struct{}, 1),
	}
	for _, n := range s.cfg.Nodes {
		r.plan[n.Name] = n.PodCIDR
		r.missing[n.Name] = true
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	informer := factory.Core().V1().Nodes().Informer()
	informer.AddEventHandler(cache.ResourceEventHandlerFuncs{ //nolint:errcheck // fails on a stopped informer only
		AddFunc:    func(obj any) { r.see(ctx, obj) },
		UpdateFunc: func(_, obj any) { r.see(ctx, obj) },
	})
	factory.Start(ctx.Done())
	return r
}

func (r *registrar) see(ctx context.Context, obj any) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return
	}
	cidr, planned := r.plan[n.Name]
	if !planned {
		return
	}
	if n.Spec.PodCIDR == "" {
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"podCIDR": cidr, "podCIDRs": []string{cidr}}})
		if err == nil {
			_, err = r.client.CoreV1().Nodes().Patch(ctx, n.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		}
		if err != nil {
			r.log.Error("give node its pod addresses", "node", n.Name, "err", err)
			return
		}
	}
	r.mu.Lock()
	delete(r.missing, n.Name)
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// wait returns when every planned node has registered.
func (r *registrar) wait(ctx context.Context, say func(string)) error {
	for {
		r.mu.Lock()
		var names []string
		for n := range r.missing {
			names = append(names, n)
		}
		r.mu.Unlock()
		if len(names) == 0 {
			return nil
		}
		detail := "not registered yet: " + strings.Join(names, ", ")
		say(detail)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; %s", context.Cause(ctx), detail)
		case <-r.changed:
		}
	}
}
