package command

import (
	"context"
	"slices"
	"strings"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/cmd/internal/term"
	"github.com/spf13/cobra"
)

type doctorOptions struct {
	*Deps
	provider string
	output   format
	context  string
	useIstio bool
}

// Diagnosis is what `ropes doctor -o json` prints, one for each provider.
type Diagnosis struct {
	Provider string              `json:"provider"`
	CanRun   bool                `json:"canRun"`           // no finding is fatal
	Chosen   bool                `json:"chosen,omitempty"` // what up takes where none is named
	Findings []bootstrap.Finding `json:"findings"`
}

func newDoctorCmd(d *Deps) *cobra.Command {
	o := &doctorOptions{Deps: d}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out whether this machine can run a cluster, and what to mend",
		Long: `Looks at what each provider needs of this machine.
The exit code is 0 where at least one provider can run, else 1.`,
		Args: atMost(0),
		RunE: d.run(func(ctx context.Context) error { return runDoctor(ctx, o) }),
	}
	cmd.Flags().StringVar(&o.provider, "provider", "", "look at this one only: "+strings.Join(d.providerNames(), ", "))
	cmd.Flags().StringVar(&o.context, "context", "", "with --provider existing: look at the cluster of this context of your kubeconfig")
	cmd.Flags().BoolVar(&o.useIstio, "use-istio", false, "with --context: as if the labs were to use the Istio that is there")
	outputFlag(cmd, &o.output)
	return cmd
}

func runDoctor(ctx context.Context, o *doctorOptions) error {
	if o.context != "" && o.provider != bootstrap.Existing {
		return usagef("--context goes with --provider %s", bootstrap.Existing)
	}
	providers := o.Providers
	if o.provider != "" {
		p, err := o.Deps.provider(o.provider)
		if err != nil {
			return err
		}
		providers = []bootstrap.Provider{p}
	}
	list := []Diagnosis{}
	for _, p := range providers {
		findings := o.findings(ctx, p)
		list = append(list, Diagnosis{
			Provider: p.Name(),
			Findings: findings,
			CanRun:   !slices.ContainsFunc(findings, fatal),
		})
	}
	if i := slices.IndexFunc(list, func(d Diagnosis) bool { return d.CanRun && pickable(d.Provider) }); i >= 0 && len(list) > 1 {
		list[i].Chosen = true
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if o.output == formatJSON {
		if err := o.printJSON(list); err != nil {
			return err
		}
	} else {
		o.print(list)
	}
	if !slices.ContainsFunc(list, func(d Diagnosis) bool { return d.CanRun }) {
		return exitStatus(exitFailure)
	}
	return nil
}

func (o *doctorOptions) findings(ctx context.Context, p bootstrap.Provider) []bootstrap.Finding {
	if e, ok := p.(examiner); ok && o.context != "" {
		return e.Examine(ctx, bootstrap.Spec{Name: o.cluster, Context: o.context, UseIstio: o.useIstio})
	}
	return p.Doctor(ctx)
}

func (o *doctorOptions) print(list []Diagnosis) {
	marks := map[bootstrap.Severity]string{
		bootstrap.OK:      o.out.Paint(term.Green, "✓"),
		bootstrap.Warning: o.out.Paint(term.Yellow, "!"),
		bootstrap.Fatal:   o.out.Paint(term.Red, "✗"),
	}
	for i, d := range list {
		if i > 0 {
			o.out.Printf("\n")
		}
		verdict := "can run here"
		if d.Chosen {
			verdict += "; ropes up takes it where --provider names no other"
		}
		if !d.CanRun {
			verdict = "cannot run here"
		}
		o.out.Printf("Provider %s %s\n", d.Provider, verdict)
		for _, f := range d.Findings {
			o.out.Printf("%s %s: %s\n", marks[f.Severity], f.Check, f.Detail)
			if f.Mend != "" && f.Severity != bootstrap.OK {
				o.out.Printf("    %s\n", f.Mend)
			}
		}
	}
}
