package embedded

import (
	"context"
	"fmt"
	"os"

	"github.com/ropes-dev/ropes/bootstrap/embedded/addons"
)

// addOns applies what a bare kubeadm cluster lacks: storage, network policy, metrics.
func (u *up) addOns(ctx context.Context, say func(string)) error {
	kubeconfig, err := os.ReadFile(u.dir.Kubeconfig())
	if err != nil {
		return err
	}
	if err := addons.Apply(ctx, kubeconfig, say); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	return addons.WaitAgents(ctx, kubeconfig, say)
}
