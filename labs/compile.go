package labs

import (
	"errors"
	"maps"
	"slices"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/checks/cel"
)

// compile gives every expression its program.
func (l *loader) compile(lab *Lab) {
	if c := l.compiler(lab.Pos, []string{"object"}); c != nil {
		for i := range lab.Owns {
			if o := &lab.Owns[i]; o.Where.Present() {
				l.expr(c, &o.Where, cel.Bool)
			}
		}
	}
	for i := range lab.Steps {
		s := &lab.Steps[i]
		stepUsed := map[string]bool{}
		for j := range s.Checks {
			l.check(s, &s.Checks[j], stepUsed)
		}
		for name, ref := range s.Objects {
			if !stepUsed[name] {
				l.complain(ref.Pos, "step %s: no expression mentions object %q", s.ID, name)
			}
		}
		for name, p := range s.Probes {
			if !stepUsed[name] {
				l.complain(p.Pos, "step %s: no expression mentions probe %q", s.ID, name)
			}
		}
	}
}

// check merges the step's names into the check's and compiles its expressions.
func (l *loader) check(s *Step, c *checks.Check, stepUsed map[string]bool) {
	own := slices.Concat(slices.Collect(maps.Keys(c.Objects)), slices.Collect(maps.Keys(c.Probes)))
	c.Objects, c.Probes = merged(s.Objects, c.Objects), merged(s.Probes, c.Probes)
	c.Watch = slices.Concat(s.Watch, c.Watch)
	all := slices.Sorted(maps.Keys(c.Objects))
	all = append(all, slices.Sorted(maps.Keys(c.Probes))...)
	comp := l.compiler(c.Pos, all)
	if comp == nil {
		return
	}
	used := map[string]bool{}
	compile := func(e *checks.Expr, want cel.Result) {
		if !e.Present() || !l.expr(comp, e, want) {
			return
		}
		for _, name := range e.Program.Vars() {
			used[name], stepUsed[name] = true, true
		}
	}
	compile(&c.Expr, cel.Bool)
	compile(&c.Got, cel.String)
	for i := range c.Mistakes {
		compile(&c.Mistakes[i].When, cel.Bool)
		compile(&c.Mistakes[i].Got, cel.String)
	}
	for _, name := range own {
		if !used[name] {
			l.complain(c.Pos, "check %s: no expression mentions %q", c.ID, name)
		}
	}
}

func merged[V any](step, check map[string]V) map[string]V {
	out := maps.Clone(step)
	if out == nil {
		out = map[string]V{}
	}
	maps.Copy(out, check)
	return out
}

func (l *loader) compiler(pos checks.Pos, vars []string) *cel.Compiler {
	c, err := cel.NewCompiler(vars)
	if err != nil {
		l.complain(pos, "%w", err)
	}
	return c
}

// expr compiles one expression and tells whether that went well.
func (l *loader) expr(c *cel.Compiler, e *checks.Expr, want cel.Result) bool {
	p, err := c.Compile(e.Source, want)
	var issues cel.IssuesError
	if errors.As(err, &issues) {
		for _, i := range issues {
			pos := e.Pos
			pos.Line += i.Line - 1
			l.complain(pos, "expression, column %d: %s", i.Column, i.Message)
		}
		return false
	}
	if err != nil {
		l.complain(e.Pos, "%w", err)
		return false
	}
	e.Program = p
	return true
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
