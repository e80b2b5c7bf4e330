package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/cmd/internal/kubeconfig"
	"github.com/ropes-dev/ropes/cmd/internal/term"
	"github.com/spf13/cobra"
)

// glance bounds the look at a cluster that is said to be running.
const glance = 5 * time.Second

type upOptions struct {
	*Deps
	spec       bootstrap.Spec
	provider   string
	workersSet bool // --workers was given
	bare       bool // nothing is put into the cluster
}

func newUpCmd(d *Deps) *cobra.Command {
	o := &upOptions{Deps: d}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make the cluster, or resume it",
		Long: `Makes a multi-node Kubernetes with Istio and the sample apps, and adds the context
ropes-NAME to your kubeconfig. On a cluster that is up it changes nothing; on one that
was interrupted, crashed or rebooted it resumes.`,
		Args: atMost(0),
	}
	cmd.RunE = d.run(func(ctx context.Context) error {
		o.workersSet = cmd.Flags().Changed("workers")
		return runUp(ctx, o)
	})
	f := cmd.Flags()
	f.IntVar(&o.spec.Workers, "workers", 2, "worker nodes beside the control plane")
	f.StringVar(&o.provider, "provider", "", "where the cluster comes from: "+strings.Join(d.providerNames(), ", "))
	f.DurationVar(&o.spec.Timeout, "timeout", 10*time.Minute, "give up after this long")
	f.BoolVar(&o.spec.Retain, "retain", false, "keep what a failed up has made, for a look at it")
	f.StringVar(&o.spec.Context, "context", "", "with --provider existing: the context of your kubeconfig whose cluster the labs run on")
	f.BoolVar(&o.spec.UseIstio, "use-istio", false, "with --provider existing: run the labs on the Istio that is there, and leave it as it is")
	f.BoolVar(&o.bare, "bare", false, "the cluster alone, without Istio and the sample apps; up without it adds them")
	f.StringVar(&o.spec.Image, "image", "", "with --provider kind: the image of the nodes (default kind's own, pinned)")
	f.StringVar(&o.spec.Images, "images", "", "with --provider kind: where the mesh comes from, registry (Istio's own, with Envoy) or builtin (default registry if it answers)")
	f.StringVar(&o.spec.Bundle, "bundle", "", "with --provider kind: take node image and images from this file, without network")
	f.IntVar(&o.spec.APIPort, "api-port", 0, "port of the API server on 127.0.0.1 (default 6443 or the next free one)")
	f.IntVar(&o.spec.HTTPPort, "http-port", 0, "port of the ingress gateway on 127.0.0.1 (default 8080 or the next free one)")
	f.IntVar(&o.spec.HTTPSPort, "https-port", 0, "TLS port of the ingress gateway on 127.0.0.1 (default 8443 or the next free one)")
	must(cmd.RegisterFlagCompletionFunc("images", cobra.FixedCompletions([]string{"registry", "builtin"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("provider", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return d.providerNames(), cobra.ShellCompDirectiveNoFileComp
	}))
	return cmd
}

func runUp(ctx context.Context, o *upOptions) error {
	if err := o.validate(); err != nil {
		return err
	}
	p, err := o.chooseProvider(ctx)
	if err != nil {
		return err
	}
	_, existing, err := o.find(ctx)
	switch {
	case err == nil && existing.Running && !existing.Shared && !o.asksKind(p) && o.healthy(ctx, existing):
		path, err := o.writeKubeconfig(ctx, existing)
		if err != nil {
			return err
		}
		fmt.Fprintf(o.Out, "Cluster %s is already up.\n", o.cluster)
		o.printNext(existing, path)
		return nil
	case err == nil:
	case errors.Is(err, bootstrap.ErrNotFound):
		if err := o.preflight(ctx, p); err != nil {
			return err
		}
	default:
		return err
	}
	return o.bringUp(ctx, p, err == nil)
}

func (o *upOptions) validate() error {
	if o.spec.Workers < 0 {
		return usagef("--workers %d: use 0 or more", o.spec.Workers)
	}
	if o.spec.Timeout <= 0 {
		return usagef("--timeout %s: use more than 0", o.spec.Timeout)
	}
	if o.provider != bootstrap.Existing && o.spec.Context != "" {
		return usagef("--context goes with --provider %s", bootstrap.Existing)
	}
	if o.provider != bootstrap.Existing && o.spec.UseIstio {
		return usagef("--use-istio goes with --provider %s", bootstrap.Existing)
	}
	if o.provider == bootstrap.Existing && o.workersSet {
		return usagef("--workers: nodes are not ours to make with --provider %s", bootstrap.Existing)
	}
	given := map[int]string{}
	for _, f := range o.ports() {
		if f.port != 0 && o.provider == bootstrap.Existing {
			return usagef("%s: nothing is published on this host with --provider %s", f.flag, bootstrap.Existing)
		}
		if f.port < 0 || f.port > 65535 {
			return usagef("%s %d: use 1 to 65535", f.flag, f.port)
		}
		if other := given[f.port]; f.port != 0 && other != "" {
			return usagef("%s and %s are both %d", other, f.flag, f.port)
		}
		given[f.port] = f.flag
	}
	return nil
}

// portFlag is a port that was asked for, 0 where none was.
type portFlag struct {
	flag string
	port int
}

func (o *upOptions) ports() []portFlag {
	return []portFlag{{"--api-port", o.spec.APIPort}, {"--http-port", o.spec.HTTPPort}, {"--https-port", o.spec.HTTPSPort}}
}

// chooseProvider keeps to the provider, the size and the ports of a cluster that is there.
func (o *upOptions) chooseProvider(ctx context.Context) (bootstrap.Provider, error) {
	o.spec.Name = o.cluster
	asked, err := o.Deps.provider(o.provider)
	if err != nil {
		return nil, err
	}
	p, c, err := o.find(ctx)
	if errors.Is(err, bootstrap.ErrNotFound) {
		if o.provider == "" {
			asked, err = o.pick(ctx)
			if err != nil {
				return nil, err
			}
		}
		return asked, o.fits(asked)
	}
	if err != nil {
		return nil, err
	}
	down := "try: ropes " + o.nameFlag() + "down   (it removes the cluster with all that is in it), then up again"
	if o.provider != "" && asked.Name() != p.Name() {
		return nil, failf(down, "cluster %q is there already, made by provider %s", o.cluster, p.Name())
	}
	if workers := len(c.Nodes) - 1; workers >= 0 {
		if o.workersSet && workers != o.spec.Workers {
			return nil, failf(down, "cluster %q is there already, with %s", o.cluster, count(workers, "worker"))
		}
		o.spec.Workers = workers
	}
	if c.Running {
		for i, has := range []int{c.APIPort, c.HTTPPort, c.HTTPSPort} {
			switch asked := o.ports()[i]; {
			case asked.port == 0 || asked.port == has:
			case c.Shared:
				return nil, usagef("%s: nothing of cluster %q is published on this host", asked.flag, o.cluster)
			default:
				return nil, failf(down, "cluster %q is there already, with %s %d", o.cluster, asked.flag, has)
			}
		}
	}
	return p, o.fits(p)
}

func (o *upOptions) healthy(ctx context.Context, c bootstrap.Cluster) bool {
	ctx, cancel := context.WithTimeout(ctx, glance)
	defer cancel()
	h, err := o.inspect(ctx, c)
	return err == nil && h.Ready
}

// preflight refuses what cannot end well, before anything is made.
func (o *upOptions) preflight(ctx context.Context, p bootstrap.Provider) error {
	var fatal []bootstrap.Finding
	for _, f := range o.examine(ctx, p) {
		switch f.Severity {
		case bootstrap.Fatal:
			fatal = append(fatal, f)
		case bootstrap.Warning:
			o.err.Printf("%s %s: %s\n", o.err.Paint(term.Yellow, "warning:"), f.Check, withMend(f))
		}
	}
	if len(fatal) == 0 {
		return nil
	}
	lines := []string{fmt.Sprintf("provider %s cannot run on this machine", p.Name())}
	for _, f := range fatal {
		lines = append(lines, f.Check+": "+withMend(f))
	}
	return failf("ropes doctor tells more", "%s", strings.Join(lines, "\n"))
}

func withMend(f bootstrap.Finding) string {
	if f.Mend == "" {
		return f.Detail
	}
	return f.Detail + "; " + f.Mend
}

// bringUp makes the cluster or, where it was there before, resumes it.
func (o *upOptions) bringUp(ctx context.Context, p bootstrap.Provider, resumes bool) error {
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, o.spec.Timeout, fmt.Errorf("up took longer than %s: %w", o.spec.Timeout, context.DeadlineExceeded))
	defer cancel()

	var c bootstrap.Cluster
	var path string
	later := []bootstrap.Step{{Name: "write the kubeconfig", Do: func(ctx context.Context, _ func(string)) (err error) {
		path, err = o.writeKubeconfig(ctx, c)
		return err
	}}}
	for _, in := range o.Installs {
		if o.bare && !in.Bare {
			continue
		}
		later = append(later, bootstrap.Step{Name: in.Name, Do: func(ctx context.Context, say func(string)) error {
			return in.Do(ctx, c, say)
		}})
	}
	var odd error // what the product page says where a learner may have meant it to
	if !o.bare && o.OpenPage != nil {
		later = append(later, bootstrap.Step{Name: "open the product page", Do: func(ctx context.Context, say func(string)) error {
			err := o.openPage(ctx, c, say)
			if err != nil && resumes && !errors.Is(err, bootstrap.ErrSkip) && ctx.Err() == nil {
				odd = err
				return nil
			}
			return err
		}})
	}
	progress := term.NewProgress(o.err)
	first, second := progress.Joined(len(later))
	c, err := p.Up(ctx, o.spec, first)
	if err == nil {
		err = bootstrap.Run(ctx, later, true, second) // a cluster with a learner's work in it is never undone
	}
	progress.Close()
	if err != nil {
		return o.explain(ctx, err)
	}
	if o.bare {
		fmt.Fprintf(o.Out, "Cluster %s is up after %.0fs: %s and nothing in it. %s adds Istio and the sample apps.\n",
			o.cluster, time.Since(start).Seconds(), count(len(c.Nodes), "node"), o.upCommand())
		fmt.Fprintf(o.Out, "  kubectl      context %s in %s\n", kubeconfig.ContextName(o.cluster), tilde(path, o.Getenv("HOME")))
		return nil
	}
	fmt.Fprintf(o.Out, "Cluster %s is up after %.0fs: %s, Istio and the sample apps.\n",
		o.cluster, time.Since(start).Seconds(), count(len(c.Nodes), "node"))
	if odd != nil {
		c.Notes = append(c.Notes, fmt.Sprintf("the product page is not as it was made: %v; unless a lab wants it so, ropes %sreset cluster puts it right", odd, o.nameFlag()))
	}
	o.printNext(c, path)
	return nil
}

const (
	// pageWait is how long proxies may take to learn where everything is.
	pageWait = 30 * time.Second
	// pageEvery is how often the page is asked for meanwhile.
	pageEvery = 250 * time.Millisecond
)

// openPage waits until the product page comes through the ingress gateway: what it takes,
// from kube-proxy to the proxies of the mesh, says nowhere else that it is ready.
func (o *upOptions) openPage(ctx context.Context, c bootstrap.Cluster, say func(string)) error {
	if c.HTTPPort == 0 {
		return bootstrap.ErrSkip
	}
	ctx, cancel := context.WithTimeoutCause(ctx, pageWait, fmt.Errorf("not whole within %s", pageWait))
	defer cancel()
	return bootstrap.Poll(ctx, pageEvery, func(ctx context.Context) error {
		err := o.OpenPage(ctx, o.productPage(c))
		if err != nil {
			say(err.Error())
		}
		return err
	})
}

// explain tells what is left after a failed up and what can be done with it.
func (o *upOptions) explain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, context.DeadlineExceeded) && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	f := &failure{error: err, interrupted: "nothing is left over"}
	for _, p := range o.Providers {
		if o.has(context.WithoutCancel(ctx), p) {
			resume := fmt.Sprintf("%s resumes, ropes %sdown removes what is there", o.upCommand(), o.nameFlag())
			f.interrupted = resume
			f.mend = resume
		}
	}
	return f
}

// writeKubeconfig merges the cluster into the learner's kubeconfig and writes the file
// that ropes' own kubectl, shell and scripts use.
func (d *Deps) writeKubeconfig(ctx context.Context, c bootstrap.Cluster) (path string, err error) {
	if err := kubeconfig.WriteAlone(d.ownKubeconfig(), c.Kubeconfig); err != nil {
		return "", fmt.Errorf("write kubeconfig: %w", err)
	}
	path, err = kubeconfig.Merge(ctx, d.Getenv, d.cluster, c.Kubeconfig)
	if err != nil {
		return "", fmt.Errorf("merge kubeconfig: %w", err)
	}
	return path, nil
}

// printNext says where things are and what to do with them.
func (d *Deps) printNext(c bootstrap.Cluster, path string) {
	for _, note := range c.Notes {
		fmt.Fprintf(d.Out, "Note: %s\n", note)
	}
	ropes := "ropes " + d.nameFlag()
	fmt.Fprintf(d.Out, `
  Sample app   %s
  kubectl      context %s in %s

Next:
  %-24s see what there is to learn
  %-24s open a shell with kubectl and istioctl for this cluster
  %-24s see how the cluster is
`, d.productPage(c), kubeconfig.ContextName(d.cluster), tilde(path, d.Getenv("HOME")),
		ropes+"labs", ropes+"shell", ropes+"status")
}

// productPage is where Bookinfo is seen through the ingress gateway.
func (d *Deps) productPage(c bootstrap.Cluster) string {
	if c.HTTPPort == 0 {
		return "http://127.0.0.1:8080/productpage while this runs: ropes " + d.nameFlag() + "kubectl -n istio-ingress port-forward service/istio-ingressgateway 8080:80"
	}
	return fmt.Sprintf("http://127.0.0.1:%d/productpage", c.HTTPPort)
}

func tilde(path, home string) string {
	if rest, ok := strings.CutPrefix(path, home+string(os.PathSeparator)); ok && home != "" {
		return filepath.Join("~", rest)
	}
	return path
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
