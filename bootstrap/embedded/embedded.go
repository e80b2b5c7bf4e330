// Package embedded is the provider that needs no container engine and no network: a
// multi-node Kubernetes out of the payload, its nodes processes in namespaces of their
// own. This package knows the host's side of it: the plan, the directory, the links and
// rules outside, and how the supervisor is started and ended. What happens inside is the
// supervisor's (package supervisor) and the nodes' (package node).
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
)

// Options are what the provider must be given.
type Options struct {
	Log       *slog.Logger
	StateRoot string // directory of all clusters; state.DefaultRoot where empty
	// Payload returns the directory of the unpacked payload.
	Payload func(ctx context.Context, say func(string)) (string, error)
}

// Provider is the embedded provider.
type Provider struct{ opts Options }

// New makes the provider. It touches nothing.
func New(opts Options) *Provider {
	if opts.StateRoot == "" {
		opts.StateRoot = state.DefaultRoot
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Provider{opts: opts}
}

// Name implements bootstrap.Provider.
func (*Provider) Name() string { return "embedded" }

// ErrNotRoot says that the caller lacks the rights to make namespaces and links.
var ErrNotRoot = errors.New("the embedded provider makes network namespaces and mounts, so it needs root: run it with sudo")

// BusyError says that another process is changing the cluster.
type BusyError struct{ Name string }

// Error names the cluster and what to do.
func (e *BusyError) Error() string {
	return fmt.Sprintf("another ropes is working on cluster %q; wait for it to end, or end it, and try again", e.Name)
}

// maxWorkers bounds a cluster to what the address plan holds.
const maxWorkers = 20

var nameRE = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`)

func validate(spec bootstrap.Spec) error {
	if !nameRE.MatchString(spec.Name) {
		return fmt.Errorf("cluster name %q: use lower-case letters, digits and dashes, 40 at most", spec.Name)
	}
	if spec.Workers < 0 || spec.Workers > maxWorkers {
		return fmt.Errorf("%d workers: use 0 to %d", spec.Workers, maxWorkers)
	}
	return nil
}
