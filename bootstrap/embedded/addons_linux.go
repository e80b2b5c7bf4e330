package embedded

import (
	"context"
	"fmt"
	"os"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/embedded/addons"
)

// addOns applies what a bare kubeadm cluster lacks: storage, network policy, metrics.
// Nothing waits for them here: they come up while the mesh is installed, see Settle.
func (u *up) addOns(ctx context.Context, say func(string)) error {
	kubeconfig, err := os.ReadFile(u.dir.Kubeconfig())
	if err != nil {
		return err
	}
	if err := addons.Apply(ctx, kubeconfig, say); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	return nil
}

// Settle waits until the add-ons of an embedded cluster are ready. On a cluster of
// another provider there are none.
func (p *Provider) Settle(ctx context.Context, c bootstrap.Cluster, say func(string)) error {
	if c.Provider != p.Name() {
		return bootstrap.ErrSkip
	}
	return addons.Wait(ctx, c.Kubeconfig, say)
}
