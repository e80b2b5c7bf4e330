package main

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/existing"
	"github.com/ropes-dev/ropes/bootstrap/images"
	"github.com/ropes-dev/ropes/bootstrap/istio"
	"github.com/ropes-dev/ropes/bootstrap/kubeclient"
	"github.com/ropes-dev/ropes/bootstrap/payload"
	"github.com/ropes-dev/ropes/bootstrap/samples"
	"github.com/ropes-dev/ropes/cmd/internal/command"
	"github.com/ropes-dev/ropes/cmd/internal/kubeconfig"
	"github.com/ropes-dev/ropes/labs"
	"github.com/ropes-dev/ropes/labs/content"
	"github.com/ropes-dev/ropes/labs/session"
	"k8s.io/klog/v2"
)

// deps joins the commands with all that they work on.
func deps(std stdio, self string) command.Deps {
	// What libraries say is for whoever looks for a fault.
	level := slog.LevelError + 1
	if os.Getenv("ROPES_DEBUG") != "" {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(std.err, &slog.HandlerOptions{Level: level}))
	klog.SetSlogLogger(log) // else client libraries write where they like
	mesh := func(c bootstrap.Cluster) istio.Config {
		return meshImages(c, istio.Config{Kubeconfig: c.Kubeconfig, Owner: c.Name, Private: c.Shared, Log: log})
	}
	apps := func(c bootstrap.Cluster) samples.Config {
		return samples.Config{Kubeconfig: c.Kubeconfig, Owner: c.Name, Log: log}
	}
	d := command.Deps{
		Rights: existing.Rights,
		In:     std.in, Out: std.out, Err: std.err,
		Getenv: os.Getenv, Environ: os.Environ(), Self: self, Root: os.Geteuid() == 0,
		Absent: map[string]string{},
		Installs: []command.Install{
			{Name: "install Istio", Do: func(ctx context.Context, c bootstrap.Cluster, say func(string)) error {
				if c.OtherIstio {
					return bootstrap.ErrSkip
				}
				return istio.Install(ctx, mesh(c), say)
			}, Undoing: "remove Istio", Undo: func(ctx context.Context, c bootstrap.Cluster, say func(string)) error {
				if c.OtherIstio {
					return bootstrap.ErrSkip
				}
				return istio.Uninstall(ctx, mesh(c), say)
			}},
			{Name: "install the sample apps", Do: func(ctx context.Context, c bootstrap.Cluster, say func(string)) error {
				return samples.Install(ctx, apps(c), say)
			}, Undoing: "remove the sample apps", Undo: func(ctx context.Context, c bootstrap.Cluster, say func(string)) error {
				return samples.Uninstall(ctx, apps(c), say)
			}},
		},
		OpenPage: samples.Open,
		Clients:  kubeclient.New,
		Labs:     loadLabs,
		Session:  func(o session.Options) (command.Session, error) { return session.Open(o) },
		Kubectl:  kubectl{}, Istioctl: istioctl{},
		Versions: versions,
		SaveImages: func(ctx context.Context, w io.Writer, refs []string) error {
			dir, err := payload.Open(ctx, command.CacheDir(os.Getenv), func(string) {})
			if err != nil {
				return err
			}
			return images.New(dir, log).WriteArchive(ctx, w, refs...)
		},
		Log: log,
	}
	addKind(&d)
	addProviders(&d)
	d.Providers = append(d.Providers, existing.New(existing.Options{
		StateRoot:   command.StateDir(os.Getenv),
		Kubeconfigs: func() ([]string, error) { return kubeconfig.Paths(os.Getenv) },
		MeshSpaces:  istio.Namespaces(), AppSpaces: samples.Namespaces(),
	}))
	d.Installs = append(d.Installs, command.Install{Name: "wait for the add-ons", Do: settle(d.Providers), Bare: true})
	return d
}

func loadLabs(dirs []string) (labs.Catalog, error) {
	sources := []labs.Source{{Name: "built in", FS: content.FS}}
	for _, dir := range dirs {
		sources = append(sources, labs.Source{Name: dir, FS: os.DirFS(dir)})
	}
	return labs.Load(sources...)
}

func versions() (map[string]string, error) {
	m, err := payload.Read()
	if err != nil {
		return nil, err
	}
	return m.Versions, nil
}
