package embedded

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
)

// followEvery is how often a followed log is looked at for more.
const followEvery = 250 * time.Millisecond

// Components names the logs of a cluster that lie on this host: the supervisor's, and
// for each node NODE/node, NODE/containerd and NODE/kubelet.
func (p *Provider) Components(name string) []string {
	dir := state.ClusterDir(p.opts.StateRoot, name)
	cfg, err := dir.Load()
	if err != nil {
		return nil
	}
	out := []string{"supervisor"}
	for _, n := range cfg.Nodes {
		for _, c := range []string{"node", "containerd", "kubelet"} {
			out = append(out, n.Name+"/"+c)
		}
	}
	return out
}

// Open opens the log of a component that Components names. With follow the reader goes
// on as the log grows, until ctx ends.
func (p *Provider) Open(ctx context.Context, name, component string, follow bool) (io.ReadCloser, error) {
	dir := state.ClusterDir(p.opts.StateRoot, name)
	path := dir.SupervisorLog()
	if node, log, ok := strings.Cut(component, "/"); ok {
		path = filepath.Join(dir.NodeVar(node), "log", log+".log")
	} else if component != "supervisor" {
		return nil, fmt.Errorf("no component %q; there are: %s", component, strings.Join(p.Components(name), " "))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if !follow {
		return f, nil
	}
	return &follower{ctx: ctx, File: f}, nil
}

// follower reads a growing file. Its ctx lives as long as the reader: it is the reader's
// end.
type follower struct {
	*os.File
	ctx context.Context //nolint:containedctx // see above
}

// Read waits for more where the file ends.
func (f *follower) Read(b []byte) (int, error) {
	for {
		n, err := f.File.Read(b)
		if n > 0 || err != io.EOF {
			return n, err
		}
		select {
		case <-f.ctx.Done():
			return 0, io.EOF
		case <-time.After(followEvery):
		}
	}
}
