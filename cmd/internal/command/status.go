package command

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/cmd/internal/kubeconfig"
	"github.com/ropes-dev/ropes/cmd/internal/term"
	"github.com/spf13/cobra"
)

type statusOptions struct {
	*Deps
	output format
}

// Report is what `ropes status -o json` prints.
type Report struct {
	Name    string            `json:"name"`
	Exists  bool              `json:"exists"`
	Running bool              `json:"running"`           // its processes are alive
	Ready   bool              `json:"ready"`             // and all of it is in order
	Problem string            `json:"problem,omitempty"` // why it cannot be told how it is
	Cluster bootstrap.Cluster `json:"cluster,omitzero"`
	Context string            `json:"context,omitempty"` // in the kubeconfig
	URLs    *URLs             `json:"urls,omitempty"`
	Health  *Health           `json:"health,omitempty"`
	Lab     *LabStatus        `json:"lab,omitempty"` // the lab under way
}

// URLs are the published addresses of a cluster.
type URLs struct {
	API         string `json:"api"`
	Ingress     string `json:"ingress,omitempty"`
	IngressTLS  string `json:"ingressTLS,omitempty"`
	ProductPage string `json:"productPage,omitempty"`
}

func newStatusCmd(d *Deps) *cobra.Command {
	o := &statusOptions{Deps: d}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "See how the cluster is and how far you are",
		Long: `Shows nodes, mesh, sample apps, addresses and the lab under way.
The exit code is 0 only where the cluster is running and all of it is ready, else 1.`,
		Args: atMost(0),
		RunE: d.run(func(ctx context.Context) error { return runStatus(ctx, o) }),
	}
	outputFlag(cmd, &o.output)
	return cmd
}

func runStatus(ctx context.Context, o *statusOptions) error {
	r, err := o.report(ctx)
	if err != nil && (!errors.Is(err, bootstrap.ErrNotFound) || o.output != formatJSON) {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if o.output == formatJSON {
		if err := o.printJSON(r); err != nil {
			return err
		}
	} else {
		o.print(r)
	}
	if !r.Ready {
		return exitStatus(exitFailure)
	}
	return nil
}

func (o *statusOptions) report(ctx context.Context) (Report, error) {
	r := Report{Name: o.cluster}
	_, c, err := o.find(ctx)
	if err != nil {
		r.Problem = err.Error()
		return r, err
	}
	r.Exists, r.Running, r.Cluster = true, c.Running, c
	r.Context = kubeconfig.ContextName(c.Name)
	r.URLs = o.urls(c)
	r.Lab = o.labUnderWay(ctx)
	if !c.Running {
		r.Problem = "the cluster is not running"
		return r, nil
	}
	asking, cancel := context.WithTimeout(ctx, glance)
	defer cancel()
	h, err := o.inspect(asking, c)
	if err != nil {
		r.Problem = err.Error()
		return r, nil
	}
	r.Health, r.Ready = &h, h.Ready
	return r, nil
}

// urls are the addresses on this host; a cluster of somebody else's publishes none.
func (o *statusOptions) urls(c bootstrap.Cluster) *URLs {
	if c.Shared {
		return &URLs{API: c.Server}
	}
	return &URLs{
		API:         fmt.Sprintf("https://127.0.0.1:%d", c.APIPort),
		Ingress:     fmt.Sprintf("http://127.0.0.1:%d", c.HTTPPort),
		IngressTLS:  fmt.Sprintf("https://127.0.0.1:%d", c.HTTPSPort),
		ProductPage: o.productPage(c),
	}
}

func (o *statusOptions) print(r Report) {
	switch {
	case !r.Running:
		o.out.Printf("Cluster %s (%s) is %s. %s resumes it.\n", r.Name, r.Cluster.Provider, o.out.Paint(term.Red, "not running"), o.upCommand())
		for _, note := range r.Cluster.Notes {
			o.out.Printf("Note: %s\n", note)
		}
		return
	case r.Health == nil:
		o.out.Printf("Cluster %s (%s) is running, but %s\n", r.Name, r.Cluster.Provider, r.Problem)
		return
	case r.Ready:
		o.out.Printf("Cluster %s (%s) is %s.\n\n", r.Name, r.Cluster.Provider, o.out.Paint(term.Green, "ready"))
	default:
		o.out.Printf("Cluster %s (%s) is running, but %s.\n\n", r.Name, r.Cluster.Provider, o.out.Paint(term.Yellow, "not all of it is ready"))
	}
	rows := [][]string{{"NODE", "STATUS", "ROLE", "VERSION", ""}}
	for _, n := range r.Health.Nodes {
		rows = append(rows, []string{n.Name, readiness(n.Ready), n.Role, n.Version, oneLine(n.Detail)})
	}
	o.out.Table(rows...)
	o.out.Printf("\n")
	rows = [][]string{{"COMPONENT", "STATUS", "PODS", ""}}
	for _, c := range r.Health.Components {
		rows = append(rows, []string{c.Name, readiness(c.Ready), fmt.Sprintf("%d/%d", c.Pods, c.Want), oneLine(c.Detail)})
	}
	o.out.Table(rows...)
	o.out.Printf("\nSample app    %s\n", o.productPage(r.Cluster))
	if r.URLs.IngressTLS != "" {
		o.out.Printf("TLS ingress   %s\n", r.URLs.IngressTLS)
	}
	o.out.Printf("API server    %s   context %s\n", r.URLs.API, r.Context)
	for _, note := range r.Cluster.Notes {
		o.out.Printf("Note: %s\n", note)
	}
	o.printLab(r.Lab)
}

func (o *statusOptions) printLab(l *LabStatus) {
	ropes := "ropes " + o.nameFlag()
	switch {
	case l == nil:
		o.out.Printf("\nNo lab is started. Next: %slabs\n", ropes)
	case l.Step == "":
		o.out.Printf("\nLab %s: all %s met. Next: %slabs\n", l.ID, count(l.Steps, "step"), ropes)
	default:
		o.out.Printf("\nLab %s: %d of %s met, now at %s. Next: %swatch\n", l.ID, l.Met, count(l.Steps, "step"), l.Step, ropes)
	}
}

func readiness(ok bool) string {
	if ok {
		return "Ready"
	}
	return "NotReady"
}

// oneLine keeps what a table can hold of a message.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 100 {
		return string(r[:99]) + "…"
	}
	return s
}
