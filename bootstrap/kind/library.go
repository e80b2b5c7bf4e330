package kind

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/cluster/nodes"
	"sigs.k8s.io/kind/pkg/cluster/nodeutils"
	kindexec "sigs.k8s.io/kind/pkg/exec"
	kindlog "sigs.k8s.io/kind/pkg/log"

	"github.com/ropes-dev/ropes/manifests"
)

// clusters is what this provider has kind's library do.
type clusters interface {
	// Create makes the cluster and returns when kind is done. It cannot be told to stop:
	// it fails once its containers are taken away. What it made stays where it fails.
	Create(name string, config []byte, log kindlog.Logger) error
	// Kubeconfig returns what leads to the API server through this host's loopback.
	Kubeconfig(name string) ([]byte, error)
	// LoadImages puts an archive of images into the node's containerd.
	LoadImages(ctx context.Context, name, node string, archive io.Reader) error
}

// library is kind itself.
type library struct {
	engine  *Engine
	scratch func(name string) string // the directory for what is made on the way to a cluster
}

func (l library) provider(log kindlog.Logger) *cluster.Provider {
	opts := []cluster.ProviderOption{cluster.ProviderWithLogger(log)}
	switch l.engine.Name {
	case "docker":
		opts = append(opts, cluster.ProviderWithDocker())
	case "nerdctl":
		opts = append(opts, cluster.ProviderWithNerdctl(l.engine.binary))
	case "podman":
		opts = append(opts, cluster.ProviderWithPodman())
	}
	return cluster.NewProvider(opts...)
}

// Create implements clusters. kind would write into the learner's kubeconfig; it gets a
// file to throw away, in a directory that down removes where this process is killed.
func (l library) Create(name string, config []byte, log kindlog.Logger) (err error) {
	dir := l.scratch(name)
	if err := os.RemoveAll(dir); err != nil { // a killed one's, with kind's lock in it
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	err = l.provider(log).Create(name, cluster.CreateWithRawConfig(config),
		cluster.CreateWithRetain(true), cluster.CreateWithKubeconfigPath(filepath.Join(dir, "kubeconfig")))
	return explainRun(err)
}

// explainRun adds the end of what the failed command printed.
func explainRun(err error) error {
	run := kindexec.RunErrorForError(err)
	if err == nil || run == nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(run.Output)), "\n")
	return fmt.Errorf("%w; it said:\n%s", err, strings.Join(lines[max(0, len(lines)-8):], "\n"))
}

// Kubeconfig implements clusters.
func (l library) Kubeconfig(name string) ([]byte, error) {
	text, err := l.provider(kindlog.NoopLogger{}).KubeConfig(name, false)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", explainRun(err))
	}
	return renamed([]byte(text), "ropes-"+name)
}

// renamed gives the current context, with its cluster and user, another name.
func renamed(kubeconfig []byte, name string) ([]byte, error) {
	c, err := clientcmd.Load(kubeconfig)
	if err != nil {
		return nil, err
	}
	ctx := c.Contexts[c.CurrentContext]
	if ctx == nil || c.Clusters[ctx.Cluster] == nil || c.AuthInfos[ctx.AuthInfo] == nil {
		return nil, errors.New("kind's kubeconfig has no current context")
	}
	cl, user := c.Clusters[ctx.Cluster], c.AuthInfos[ctx.AuthInfo]
	clear(c.Contexts)
	clear(c.Clusters)
	clear(c.AuthInfos)
	ctx.Cluster, ctx.AuthInfo = name, name
	c.Contexts[name], c.Clusters[name], c.AuthInfos[name], c.CurrentContext = ctx, cl, user, name
	return clientcmd.Write(*c)
}

func (l library) node(name, node string) (nodes.Node, error) {
	list, err := l.provider(kindlog.NoopLogger{}).ListInternalNodes(name)
	if err != nil {
		return nil, err
	}
	for _, n := range list {
		if n.String() == node {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no node %s", node)
}

// LoadImages implements clusters. The end of ctx ends the archive, and so the load.
func (l library) LoadImages(ctx context.Context, name, node string, archive io.Reader) error {
	n, err := l.node(name, node)
	if err != nil {
		return err
	}
	return explainRun(nodeutils.LoadImageArchive(n, untilDone{ctx: ctx, Reader: archive}))
}

// untilDone is a reader that fails once ctx has ended. It lives as long as the call that
// it is made for.
type untilDone struct {
	io.Reader
	ctx context.Context //nolint:containedctx // see above
}

func (r untilDone) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(b)
}

// nodePorts are those of the ingress gateway, see bootstrap/istio.
const (
	httpNodePort  = 30080
	httpsNodePort = 30443
)

var clusterConfig = template.Must(template.New("cluster").Option("missingkey=error").Parse(manifests.KindCluster))

// configOf renders the cluster's configuration for kind.
func configOf(r *record) ([]byte, error) {
	var b bytes.Buffer
	err := clusterConfig.Execute(&b, map[string]any{
		"Name": r.Name, "Image": r.Image, "Workers": make([]struct{}, r.Workers),
		"APIPort": r.APIPort, "HTTPPort": r.HTTPPort, "HTTPSPort": r.HTTPSPort,
		"HTTPNodePort": httpNodePort, "HTTPSNodePort": httpsNodePort,
	})
	return b.Bytes(), err
}
