package command

import (
	"context"
	"fmt"

	"github.com/ropes-dev/ropes/labs"
	"github.com/spf13/cobra"
)

type labsOptions struct {
	*Deps
	output format
}

// LabView is one lab as `ropes labs -o json` prints it.
type LabView struct {
	ID      string      `json:"id"`
	Title   string      `json:"title"`
	Summary string      `json:"summary"`
	Minutes int         `json:"minutes"`
	Needs   []labs.Need `json:"needs"`
	Source  string      `json:"source"`
	Current bool        `json:"current"` // the lab under way
	Met     int         `json:"met"`     // steps
	Steps   []StepBrief `json:"steps"`
}

// StepBrief is a step in the list of labs.
type StepBrief struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Met   bool   `json:"met"`
}

func newLabsCmd(d *Deps) *cobra.Command {
	o := &labsOptions{Deps: d}
	cmd := &cobra.Command{
		Use:   "labs",
		Short: "List what there is to learn, and how far you are",
		Args:  atMost(0),
		RunE:  d.run(func(ctx context.Context) error { return runLabs(ctx, o) }),
	}
	outputFlag(cmd, &o.output)
	return cmd
}

func runLabs(ctx context.Context, o *labsOptions) error {
	l, err := o.open(ctx, false, nil)
	if err != nil {
		return err
	}
	p, err := l.session.Progress()
	if err != nil {
		return l.explain(err)
	}
	views := []LabView{}
	for _, lab := range l.catalog {
		v := LabView{
			ID: lab.ID, Title: lab.Title, Summary: lab.Summary, Minutes: lab.Minutes,
			Needs: append([]labs.Need{}, lab.Needs...), Source: lab.Source, Current: lab.ID == p.Lab,
		}
		lp := p.Labs[lab.ID]
		for _, s := range lab.Steps {
			brief := StepBrief{ID: s.ID, Title: s.Title}
			if lp != nil && lp.Steps[s.ID] != nil {
				brief.Met = lp.Steps[s.ID].Met != nil
			}
			if brief.Met {
				v.Met++
			}
			v.Steps = append(v.Steps, brief)
		}
		views = append(views, v)
	}
	if o.output == formatJSON {
		return o.printJSON(views)
	}
	o.print(views)
	return nil
}

func (o *labsOptions) print(views []LabView) {
	if len(views) == 0 {
		o.out.Printf("There are no labs in this build; --labs DIR adds your own.\n")
		return
	}
	rows := [][]string{{"LAB", "TITLE", "TIME", "STEPS MET", ""}}
	for _, v := range views {
		mark := ""
		if v.Current {
			mark = "under way"
		}
		rows = append(rows, []string{v.ID, v.Title, fmt.Sprintf("%d min", v.Minutes), fmt.Sprintf("%d/%d", v.Met, len(v.Steps)), mark})
	}
	o.out.Table(rows...)
	ropes := "ropes " + o.nameFlag()
	o.out.Printf("\n%sstart LAB begins one; without LAB it shows the step you are at.\n", ropes)
}
