package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/istio"
	"github.com/ropes-dev/ropes/bootstrap/payload"
	"github.com/ropes-dev/ropes/bootstrap/samples"
	"github.com/ropes-dev/ropes/cmd/internal/command"
	"github.com/ropes-dev/ropes/labs"
	"github.com/ropes-dev/ropes/labs/content"
	"github.com/ropes-dev/ropes/labs/session"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
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
	d := command.Deps{
		In: std.in, Out: std.out, Err: std.err,
		Getenv: os.Getenv, Environ: os.Environ(), Self: self, Root: os.Geteuid() == 0,
		Absent: map[string]string{
			"kind":     "kind clusters are the subject of a later release",
			"existing": "clusters of others are the subject of a later release",
		},
		Installs: []command.Install{
			{Name: "install Istio", Do: func(ctx context.Context, c bootstrap.Cluster, say func(string)) error {
				return istio.Install(ctx, istio.Config{Kubeconfig: c.Kubeconfig, Log: log}, say)
			}},
			{Name: "install the sample apps", Do: func(ctx context.Context, c bootstrap.Cluster, say func(string)) error {
				return samples.Install(ctx, samples.Config{Kubeconfig: c.Kubeconfig, Log: log}, say)
			}},
		},
		Clients: clients,
		Labs:    loadLabs,
		Session: func(o session.Options) (command.Session, error) { return session.Open(o) },
		Kubectl: kubectl{}, Istioctl: istioctl{},
		Versions: versions,
		Log:      log,
	}
	addProviders(&d)
	return d
}

// clients makes a client without the default limit on its requests: they are few.
func clients(kubeconfig []byte) (kubernetes.Interface, error) {
	conf, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	conf.QPS = -1
	return kubernetes.NewForConfig(conf)
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
