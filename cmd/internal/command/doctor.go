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
}

// Diagnosis is what `ropes doctor -o json` prints, one for each provider.
type Diagnosis struct {
	Provider string              `json:"provider"`
	CanRun   bool                `json:"canRun"` // no finding is fatal
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
	outputFlag(cmd, &o.output)
	return cmd
}

func runDoctor(ctx context.Context, o *doctorOptions) error {
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
		findings := p.Doctor(ctx)
		list = append(list, Diagnosis{
			Provider: p.Name(),
			Findings: findings,
			CanRun:   !slices.ContainsFunc(findings, func(f bootstrap.Finding) bool { return f.Severity == bootstrap.Fatal }),
		})
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
