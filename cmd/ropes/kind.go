package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/istio"
	"github.com/ropes-dev/ropes/bootstrap/kind"
	"github.com/ropes-dev/ropes/bootstrap/payload"
	"github.com/ropes-dev/ropes/cmd/internal/command"
)

// addKind adds the provider kind, which is preferred to all others.
func addKind(d *command.Deps) {
	p := kind.New(kind.Options{
		Log:      d.Log,
		StateDir: filepath.Join(command.StateDir(os.Getenv), "kind"),
		Payload: func(ctx context.Context, say func(string)) (string, error) {
			return payload.Open(ctx, command.CacheDir(os.Getenv), say)
		},
		HasPayload: func() error {
			_, err := payload.Read()
			return err
		},
	})
	d.Providers = append(d.Providers, p)
	d.Logs = append(logSources{}, p)
	d.Bundle = func(ctx context.Context, file string, spec bootstrap.Spec, obs bootstrap.Observer) error {
		return p.CreateBundle(ctx, file, kind.BundleSpec{Image: spec.Image, Images: spec.Images}, obs)
	}
}

// settle waits for what a provider has left to come up by itself.
func settle(providers []bootstrap.Provider) func(context.Context, bootstrap.Cluster, func(string)) error {
	return func(ctx context.Context, c bootstrap.Cluster, say func(string)) error {
		for _, p := range providers {
			s, ok := p.(interface {
				Settle(context.Context, bootstrap.Cluster, func(string)) error
			})
			if ok && p.Name() == c.Provider {
				return s.Settle(ctx, c, say)
			}
		}
		return bootstrap.ErrSkip
	}
}

// meshImages says where the mesh's images come from in the cluster.
func meshImages(c bootstrap.Cluster, into istio.Config) istio.Config {
	if c.Images == kind.FromRegistry {
		into.Hub, into.Tag = kind.IstioHub, kind.IstioTag
	}
	return into
}

// logSources are several sources as one.
type logSources []command.LogSource

// Components implements command.LogSource.
func (s logSources) Components(cluster string) []string {
	var names []string
	for _, from := range s {
		names = append(names, from.Components(cluster)...)
	}
	return names
}

// Open implements command.LogSource.
func (s logSources) Open(ctx context.Context, cluster, component string, follow bool) (io.ReadCloser, error) {
	for _, from := range s {
		if slices.Contains(from.Components(cluster), component) {
			return from.Open(ctx, cluster, component, follow)
		}
	}
	return nil, fmt.Errorf("no component %q; there are: %s", component, strings.Join(s.Components(cluster), " "))
}
