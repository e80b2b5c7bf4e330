// Package kind is the provider for machines with a container engine: a multi-node
// cluster of kind, through its library, on Docker, nerdctl or Podman. It knows which
// node image, ports and images a lab wants, which clusters are ropes' own, and how what
// is half there is resumed or refused. How a node comes to be is kind's business.
package kind

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/ropes-dev/ropes/bootstrap"
)

// NodeImage is the node image that is taken where none is named: kind v0.33.0's own,
// by digest.
const NodeImage = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"

// Where Istio's own images come from with --images=registry: the release of the charts
// that this binary carries.
const (
	IstioHub = "docker.io/istio"
	IstioTag = "1.31.0"
)

// Words that --images takes.
const (
	FromRegistry = "registry"
	BuiltIn      = "builtin"
)

// registryURL is asked whether the registry of the node image and of Istio answers.
const registryURL = "https://registry-1.docker.io/v2/"

// Options are what the provider must be given.
type Options struct {
	Log *slog.Logger
	// StateDir holds one file for each cluster that this provider has made.
	StateDir string
	// Payload returns the directory of the unpacked payload, which the built-in images
	// are made of.
	Payload func(ctx context.Context, say func(string)) (string, error)
	// HasPayload returns why there is no payload, nil where there is one. It unpacks nothing.
	HasPayload func() error
}

// Provider is the kind provider.
type Provider struct {
	opts     Options
	detect   func(ctx context.Context) (*Engine, error)
	clusters func(*Engine) clusters
	registry func(ctx context.Context) error // nil where the registry answers
	free     func(port int) error            // nil where the port on 127.0.0.1 is free
	ready    func(ctx context.Context, kubeconfig []byte, nodes []string, say func(string)) error
	restart  func(ctx context.Context, kubeconfig []byte, nodes []Container, say func(string)) error
	addOns   func(ctx context.Context, kubeconfig []byte, say func(string)) error
	settled  func(ctx context.Context, kubeconfig []byte, say func(string)) error
}

var _ bootstrap.Provider = (*Provider)(nil)

// New makes the provider. It touches nothing.
func New(opts Options) *Provider {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	p := &Provider{opts: opts, free: isFree, ready: awaitNodes, restart: awaitRestart, addOns: applyAddOns, settled: awaitAddOns}
	p.registry = func(ctx context.Context) error { return registryAnswers(ctx, registryURL) }
	p.detect = func(ctx context.Context) (*Engine, error) { return Detect(ctx, os.Getenv, execute) }
	p.clusters = func(e *Engine) clusters { return library{engine: e, scratch: p.scratchPath} }
	return p
}

// Name implements bootstrap.Provider.
func (*Provider) Name() string { return "kind" }

var nameRE = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`)

// maxWorkers bounds a cluster to what one machine may be thought to hold.
const maxWorkers = 20

func validate(spec bootstrap.Spec) error {
	if !nameRE.MatchString(spec.Name) {
		return fmt.Errorf("cluster name %q: use lower-case letters, digits and dashes, 40 at most", spec.Name)
	}
	if spec.Workers < 0 || spec.Workers > maxWorkers {
		return fmt.Errorf("%d workers: use 0 to %d", spec.Workers, maxWorkers)
	}
	switch spec.Images {
	case "", FromRegistry, BuiltIn:
	default:
		return fmt.Errorf("images from %q: use %s or %s", spec.Images, FromRegistry, BuiltIn)
	}
	return nil
}

// registryTimeout bounds the question whether the registry answers.
const registryTimeout = 3 * time.Second

// registryAnswers returns nil where a registry answers at base, the root of its API. A
// guest network's login page or a proxy that refuses answers there too, but not with the
// version of the API; 401 is how a registry greets a stranger.
func registryAnswers(ctx context.Context, base string) error {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	greets := res.StatusCode == http.StatusOK || res.StatusCode == http.StatusUnauthorized
	if !greets || res.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
		return fmt.Errorf("%s: answered by something that is no registry, such as a proxy or a login page: %s", res.Request.URL.Redacted(), res.Status)
	}
	return nil
}

func (p *Provider) statePath(name string) string {
	return filepath.Join(p.opts.StateDir, name+".json")
}
