package e2e

import (
	"testing"

	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pkg/config"
)

// apply creates or replaces istio resources; the result removes them again.
func (w *world) apply(yaml string) func() {
	w.t.Helper()
	list, _, err := crd.ParseInputs(yaml)
	must(w.t, err)
	store := w.istiod.Store()
	for _, c := range list {
		if c.Namespace == "" {
			c.Namespace = "ns"
		}
		if old := store.Get(c.GroupVersionKind, c.Name, c.Namespace); old != nil {
			c.ResourceVersion = old.ResourceVersion
			_, err = store.Update(c)
		} else {
			_, err = store.Create(c)
		}
		must(w.t, err)
	}
	return func() {
		for _, c := range list {
			w.remove(c)
		}
	}
}

func (w *world) remove(c config.Config) {
	ns := c.Namespace
	if ns == "" {
		ns = "ns"
	}
	must(w.t, w.istiod.Store().Delete(c.GroupVersionKind, c.Name, ns, nil))
}

// eventually repeats fn until it is nil; configuration takes a moment to arrive.
func eventually(t *testing.T, p *pod, what string, fn func() error) {
	t.Helper()
	p.until(what, fn)
}
