// Package cel compiles the expressions of checks: CEL with the libraries that Kubernetes'
// own validation rules have, and a few functions for reading objects. It knows nothing of
// clusters: values come in as plain maps and lists.
package cel

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"
	"k8s.io/apiserver/pkg/cel/library"

	"github.com/ropes-dev/ropes/checks"
)

// costLimit bounds one evaluation; a rule of an object's size takes some thousands.
const costLimit = 10_000_000

// Result is what an expression has to give.
type Result int

// The results an author's expression can be asked for.
const (
	Bool   Result = iota // true or false
	String               // a string; any other value is rendered as JSON
)

// Issue is one complaint about an expression; Line and Column count from 1 within it.
type Issue struct {
	Line, Column int
	Message      string
}

// IssuesError is all complaints about one expression.
type IssuesError []Issue

func (e IssuesError) Error() string {
	var b []string
	for _, i := range e {
		b = append(b, i.Message)
	}
	return strings.Join(b, "; ")
}

// Compiler compiles expressions over one set of variables.
type Compiler struct {
	env  *cel.Env
	vars []string
}

// base is what all expressions share; making it takes milliseconds, extending it does not.
var base = sync.OnceValues(func() (*cel.Env, error) {
	opts := []cel.EnvOption{
		cel.EagerlyValidateDeclarations(true),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.OptionalTypes(),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals()),
		ext.Strings(ext.StringsVersion(2)),
		ext.Sets(),
		ext.TwoVarComprehensions(),
		ext.Lists(ext.ListsVersion(3)),
		library.URLs(), library.Regex(), library.Lists(), library.Quantity(),
		library.IP(), library.CIDR(), library.Format(), library.SemverLib(library.SemverVersion(1)),
	}
	return cel.NewEnv(append(opts, objectFunctions()...)...)
})

// NewCompiler returns a compiler for expressions over vars, each of any type.
func NewCompiler(vars []string) (*Compiler, error) {
	env, err := base()
	if err != nil {
		return nil, fmt.Errorf("CEL environment: %w", err)
	}
	opts := make([]cel.EnvOption, len(vars))
	for i, v := range vars {
		opts[i] = cel.Variable(v, cel.DynType)
	}
	if env, err = env.Extend(opts...); err != nil {
		return nil, fmt.Errorf("names for expressions: %w", err)
	}
	return &Compiler{env: env, vars: slices.Clone(vars)}, nil
}

// Compile checks and compiles source. The error is an IssuesError where source is at fault.
func (c *Compiler) Compile(source string, want Result) (checks.Program, error) {
	ast, iss := c.env.Compile(source)
	if err := iss.Err(); err != nil {
		var out IssuesError
		for _, e := range iss.Errors() {
			out = append(out, Issue{Line: e.Location.Line(), Column: e.Location.Column() + 1, Message: e.Message})
		}
		return nil, out
	}
	if t := ast.OutputType(); !fits(t, want) {
		return nil, IssuesError{{Line: 1, Column: 1, Message: fmt.Sprintf("gives a %s, not a %s", t, want)}}
	}
	prg, err := c.env.Program(ast, cel.EvalOptions(cel.OptOptimize, cel.OptTrackCost), cel.CostLimit(costLimit))
	if err != nil {
		return nil, IssuesError{{Line: 1, Column: 1, Message: err.Error()}}
	}
	var used []string
	for _, r := range ast.NativeRep().ReferenceMap() {
		if len(r.OverloadIDs) == 0 && slices.Contains(c.vars, r.Name) && !slices.Contains(used, r.Name) {
			used = append(used, r.Name)
		}
	}
	slices.Sort(used)
	return &program{prg: prg, want: want, vars: used}, nil
}

func (r Result) String() string {
	if r == Bool {
		return "bool"
	}
	return "string"
}

func fits(t *cel.Type, want Result) bool {
	return want == String || t.IsExactType(cel.BoolType) || t.IsExactType(cel.DynType)
}

type program struct {
	prg  cel.Program
	want Result
	vars []string
}

// Vars implements checks.Program.
func (p *program) Vars() []string { return p.vars }

// Eval implements checks.Program.
func (p *program) Eval(vars map[string]any) (any, error) {
	v, _, err := p.prg.Eval(vars)
	if err != nil {
		return nil, classify(err)
	}
	if p.want == Bool {
		b, ok := v.Value().(bool)
		if !ok {
			return nil, fmt.Errorf("gives a %s, not a bool", v.Type().TypeName())
		}
		return b, nil
	}
	return text(v)
}

// classify wraps checks.ErrAbsent around the errors by which CEL says that there is no such
// field, key or index. CEL has no types for them, only their words.
func classify(err error) error {
	for _, words := range []string{"no such key", "index out of bounds", "no such attribute", "optional.none() dereference"} {
		if strings.Contains(err.Error(), words) {
			return fmt.Errorf("%w: %w", checks.ErrAbsent, err)
		}
	}
	return err
}

func text(v ref.Val) (string, error) {
	if o, ok := v.(*types.Optional); ok {
		if !o.HasValue() {
			return "", fmt.Errorf("%w: empty optional", checks.ErrAbsent)
		}
		v = o.GetValue()
	}
	if s, ok := v.Value().(string); ok {
		return s, nil
	}
	js, err := v.ConvertToNative(types.JSONValueType)
	if err != nil {
		return "", fmt.Errorf("gives a %s, not a string", v.Type().TypeName())
	}
	b, err := json.Marshal(js)
	if err != nil {
		return "", fmt.Errorf("render %s: %w", v.Type().TypeName(), err)
	}
	return string(b), nil
}
