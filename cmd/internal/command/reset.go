package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/ropes-dev/ropes/cmd/internal/term"
	"github.com/ropes-dev/ropes/labs/session"
	"github.com/spf13/cobra"
)

type resetOptions struct {
	*Deps
	scope  session.Scope
	output format
}

var scopes = []string{
	cobra.CompletionWithDesc(string(session.ScopeStep), "the current step, as it was when it became current"),
	cobra.CompletionWithDesc(string(session.ScopeLab), "the whole lab, back to its first step"),
	cobra.CompletionWithDesc(string(session.ScopeCluster), "all labs: nothing of any lab is left"),
}

func newResetCmd(d *Deps) *cobra.Command {
	o := &resetOptions{Deps: d, scope: session.ScopeStep}
	cmd := &cobra.Command{
		Use:   "reset [step|lab|cluster]",
		Short: "Bring the step, the lab or the cluster back to its baseline, and prove it",
		Long: `Brings back what was recorded:
  step      the current step, as it was when it became current (the default)
  lab       the whole lab, back to its first step
  cluster   all labs: nothing of any lab is left, and none is started
The proof is a digest over all objects, compared with the recorded one.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				switch o.scope = session.Scope(args[0]); o.scope {
				case session.ScopeStep, session.ScopeLab, session.ScopeCluster:
				default:
					return fmt.Errorf("reset %q: use step, lab or cluster", args[0])
				}
			}
			return atMost(1)(nil, args)
		},
		RunE: d.run(func(ctx context.Context) error { return runReset(ctx, o) }),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return scopes, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
		},
	}
	outputFlag(cmd, &o.output)
	return cmd
}

func runReset(ctx context.Context, o *resetOptions) error {
	if o.scope != session.ScopeCluster { // that no lab is started is told without a cluster
		reading, err := o.open(ctx, false, nil)
		if err != nil {
			return err
		}
		if _, _, err := reading.current(); err != nil {
			return err
		}
	}
	l, err := o.open(ctx, true, o.narrator())
	if err != nil {
		return err
	}
	r, err := l.session.Reset(ctx, o.scope)
	if err != nil {
		return l.explain(err)
	}
	if o.output == formatJSON {
		return o.printJSON(r)
	}
	o.print(l, r)
	return nil
}

func (o *resetOptions) print(l *lesson, r session.ResetReport) {
	for _, list := range []struct {
		did     string
		objects []string
	}{{"deleted", r.Deleted}, {"restored", r.Restored}} {
		for _, obj := range list.objects {
			o.out.Printf("%-8s  %s\n", list.did, obj)
		}
	}
	what := "The cluster"
	switch r.Scope {
	case session.ScopeLab:
		what = "Lab " + r.Lab
	case session.ScopeStep:
		what = "The current step of lab " + r.Lab
	}
	o.out.Printf("%s is at its baseline after %.1fs: %d deleted, %d restored.\n",
		what, r.Took.Seconds(), len(r.Deleted), len(r.Restored))
	o.out.Printf("%s\n", o.out.Paint(term.Dim, fmt.Sprintf("Proof: %s compared, all equal to the record, digest %s.", count(r.Objects, "object"), short(r.Digest))))
	if lab, step, err := l.session.Current(); err == nil && step != nil {
		o.out.Printf("You are at step %d of lab %s, %s. ropes %sstart shows it.\n", number(lab, step), lab.ID, step.ID, o.nameFlag())
	}
}

// short is enough of a digest to compare by eye.
func short(digest string) string {
	algorithm, hex, ok := strings.Cut(digest, ":")
	if !ok {
		algorithm, hex = "", digest
	} else {
		algorithm += ":"
	}
	return algorithm + hex[:min(len(hex), 12)]
}

func ordinal(n, of int) string { return fmt.Sprintf("%d of %d", n, of) }
