package embedded

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/embedded/addons"
)

// addOns applies what a bare kubeadm cluster lacks: storage, network policy, metrics, and
// the Gateway API.
// Nothing waits for them here: they come up while the mesh is installed, see Settle.
func (u *up) addOns(ctx context.Context, say func(string)) error {
	kubeconfig, err := os.ReadFile(u.dir.Kubeconfig())
	if err != nil {
		return err
	}
	if err := addons.Apply(ctx, kubeconfig, say); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	// Before istiod, which looks for them when it starts.
	if err := addons.Create(ctx, kubeconfig, os.DirFS(filepath.Join(u.cfg.PayloadDir, gatewayAPI)), say); err != nil {
		return fmt.Errorf("install the Gateway API: %w", err)
	}
	return nil
}

// gatewayAPI is the place in the payload of the Gateway API's own definitions, of its standard channel.
const gatewayAPI = "share/gateway-api"

// Settle waits until the add-ons of an embedded cluster are ready. On a cluster of
// another provider there are none.
func (p *Provider) Settle(ctx context.Context, c bootstrap.Cluster, say func(string)) error {
	if c.Provider != p.Name() {
		return bootstrap.ErrSkip
	}
	return addons.Wait(ctx, c.Kubeconfig, say)
}
