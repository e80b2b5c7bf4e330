package kind

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Components names the logs of a cluster's nodes: NODE/node is what its container says,
// NODE/containerd and NODE/kubelet are in its journal.
func (p *Provider) Components(name string) []string {
	rec, err := p.load(name)
	if err != nil || rec == nil {
		return nil
	}
	var out []string
	for _, n := range rec.nodeNames() {
		for _, c := range []string{"node", "containerd", "kubelet"} {
			out = append(out, n+"/"+c)
		}
	}
	return out
}

// Open opens the log of a component that Components names. With follow the reader goes
// on as the log grows, until ctx ends.
func (p *Provider) Open(ctx context.Context, name, component string, follow bool) (io.ReadCloser, error) {
	node, unit, ok := strings.Cut(component, "/")
	if !ok || !slices.Contains(p.Components(name), component) {
		return nil, fmt.Errorf("no component %q; there are: %s", component, strings.Join(p.Components(name), " "))
	}
	engine, err := p.detect(ctx)
	if err != nil {
		return nil, err
	}
	args := []string{"exec", node, "journalctl", "--no-pager", "--output=short-iso", "--unit=" + unit}
	if unit == "node" {
		args = []string{"logs"}
	}
	if follow {
		args = append(args, "--follow")
	}
	if unit == "node" {
		args = append(args, node)
	}
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	go func() {
		err := engine.run(ctx, command{name: engine.binary, args: args, stdout: w})
		if ctx.Err() != nil {
			err = nil
		}
		w.CloseWithError(err)
	}()
	return &log{PipeReader: r, end: cancel}, nil
}

// log is a running command's output. Closing it ends the command.
type log struct {
	*io.PipeReader
	end context.CancelFunc
}

// Close implements io.Closer.
func (l *log) Close() error {
	l.end()
	return l.PipeReader.Close()
}
