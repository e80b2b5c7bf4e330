package checks

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

// rewatchEvery is how often a watch that cannot be set up (kind not installed, API server
// gone) is tried again.
const rewatchEvery = 2 * time.Second

// Watch judges the checks of a step now and whenever a change can touch them, until ctx
// ends. The observer is told of each verdict that differs from the check's last one.
//
// One API watch per kind and namespace that the checks mention; each check has a schedule
// of its own, so that a slow probe holds up nobody else.
func (r *Runner) Watch(ctx context.Context, step string, cs []Check, obs Observer) {
	var wg sync.WaitGroup
	defer wg.Wait()
	report := changes(obs)
	watches := map[watchKey][]listener{}
	for i := range cs {
		c := &cs[i]
		changed := make(chan struct{}, 1)
		for _, ref := range touches(c) {
			k := watchKey{ref.APIVersion, ref.Kind, ref.Namespace}
			watches[k] = append(watches[k], listener{ref, changed})
		}
		s := objectSchedule
		if c.Live() {
			s = probeSchedule
		}
		wg.Go(func() {
			s.loop(ctx, changed, func(ctx context.Context) {
				v := r.one(ctx, newReading(r.Cluster, r.Prober), step, c)
				if ctx.Err() == nil {
					report(v)
				}
			})
		})
	}
	for k, ls := range watches {
		wg.Go(func() { r.watch(ctx, k, ls) })
	}
}

// changes passes on the verdicts that say something new, one at a time.
func changes(obs Observer) func(Verdict) {
	var mu sync.Mutex
	last := map[string]Verdict{}
	return func(v Verdict) {
		mu.Lock()
		defer mu.Unlock()
		said := v
		said.At, said.Took = time.Time{}, 0
		if l, ok := last[v.Check]; ok && l == said {
			return
		}
		last[v.Check] = said
		obs.Verdict(v)
	}
}

// watchKey is what one API watch covers.
type watchKey struct{ apiVersion, kind, namespace string }

// listener is a check that waits for changes to what ref names.
type listener struct {
	ref     ObjectRef
	changed chan<- struct{}
}

func tell(ls []listener, old, obj metav1.Object) {
	for _, l := range ls {
		if l.ref.matches(old, obj) {
			select {
			case l.changed <- struct{}{}:
			default: // it knows already
			}
		}
	}
}

// watch passes on the changes to one kind of object until ctx ends.
func (r *Runner) watch(ctx context.Context, k watchKey, ls []listener) {
	for {
		inf, err := r.informer(k, ls)
		if err == nil {
			follow(ctx, inf, ls)
			return
		}
		r.log().Info("watch", "kind", k.kind, "namespace", k.namespace, "err", err)
		if !sleep(ctx, rewatchEvery) {
			return
		}
	}
}

// follow runs an informer until ctx ends. What changed between a check's first run and
// the start of the watch would go unnoticed, so all listeners are told once it stands.
func follow(ctx context.Context, inf cache.SharedIndexInformer, ls []listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if !cache.WaitForCacheSync(ctx.Done(), inf.HasSynced) {
			return
		}
		for _, l := range ls {
			select {
			case l.changed <- struct{}{}:
			default:
			}
		}
	})
	inf.RunWithContext(ctx)
}

func (r *Runner) informer(k watchKey, ls []listener) (cache.SharedIndexInformer, error) {
	m, err := r.Cluster.Mapping(k.apiVersion, k.kind)
	if err != nil {
		return nil, err
	}
	inf := dynamicinformer.NewFilteredDynamicInformer(r.Cluster.Dynamic, m.Resource, k.namespace, 0, cache.Indexers{}, nil).Informer()
	if err := inf.SetTransform(metadataOnly); err != nil {
		return nil, fmt.Errorf("watch %s: %w", k.kind, err)
	}
	err = inf.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		if ctx.Err() == nil {
			r.log().Info("watch broke off", "kind", k.kind, "namespace", k.namespace, "err", err)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", k.kind, err)
	}
	_, err = inf.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if !initial { // follow sees to what was there
				tell(ls, nil, asObject(obj))
			}
		},
		UpdateFunc: func(old, obj any) {
			o, n := asObject(old), asObject(obj)
			if o == nil || n == nil || o.GetResourceVersion() != n.GetResourceVersion() {
				tell(ls, o, n)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			tell(ls, asObject(obj), nil)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", k.kind, err)
	}
	return inf, nil
}

func asObject(obj any) metav1.Object {
	o, ok := obj.(metav1.Object)
	if !ok {
		return nil
	}
	return o
}

// metadataOnly keeps what matches looks at: objects are read afresh for each run.
func metadataOnly(obj any) (any, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return obj, nil
	}
	slim := &unstructured.Unstructured{Object: map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind()}}
	slim.SetNamespace(u.GetNamespace())
	slim.SetName(u.GetName())
	slim.SetUID(u.GetUID())
	slim.SetResourceVersion(u.GetResourceVersion())
	slim.SetLabels(u.GetLabels())
	return slim, nil
}
