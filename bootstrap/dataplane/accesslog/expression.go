package accesslog

import (
	"fmt"
	"strconv"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"
	"google.golang.org/protobuf/types/known/structpb"
)

// Expression is a compiled CEL expression over the attributes of an entry, which have Envoy's names: request.path,
// source.address, xds.cluster_name and so on. An attribute that is not known is absent, as in Envoy: to use it is an
// error, has() tells. It is safe for concurrent use.
type Expression struct {
	text    string
	program cel.Program
}

// environment knows the names of all roots; their fields are found when an expression runs.
var celEnvironment = func() func() (*cel.Env, error) {
	var made *cel.Env
	var failed error
	opts := []cel.EnvOption{ext.Strings(), cel.OptionalTypes(), cel.DefaultUTCTimeZone(true)}
	for _, name := range roots {
		opts = append(opts, cel.Variable(name, cel.DynType))
	}
	made, failed = cel.NewEnv(opts...)
	return func() (*cel.Env, error) { return made, failed }
}()

// CompileExpression parses text and checks that it names roots that exist.
func CompileExpression(text string) (*Expression, error) {
	env, err := celEnvironment()
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, fmt.Errorf("expression %q: %w", text, issues.Err())
	}
	p, err := env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(1<<20))
	if err != nil {
		return nil, fmt.Errorf("expression %q: %w", text, err)
	}
	return &Expression{text: text, program: p}, nil
}

func (x *Expression) run(e *Entry) (ref.Val, bool) {
	v, _, err := x.program.Eval(activation{e})
	if err != nil || v == nil || types.IsUnknownOrError(v) {
		return nil, false
	}
	return v, true
}

// Match reports whether the expression holds for e. What fails or is no boolean does not hold.
func (x *Expression) Match(e *Entry) bool {
	v, ok := x.run(e)
	return ok && v == types.True
}

// Text returns the value as Envoy prints it; false where evaluation fails, by an absent attribute for example.
func (x *Expression) Text(e *Entry) (string, bool) {
	v, ok := x.run(e)
	if !ok {
		return "", false
	}
	return printed(v)
}

// Value returns the value in the types that match.Lookup names.
func (x *Expression) Value(e *Entry) (any, bool) {
	v, ok := x.run(e)
	if !ok {
		return nil, false
	}
	switch v := v.(type) {
	case types.String:
		return string(v), true
	case types.Bool:
		return bool(v), true
	case types.Int:
		return float64(v), true
	case types.Uint:
		return float64(v), true
	case types.Double:
		return float64(v), true
	case types.Null:
		return nil, false
	}
	if s, err := v.ConvertToNative(structValueType); err == nil {
		return s.(*structpb.Value).AsInterface(), true
	}
	return bare(printed(v))
}

func printed(v ref.Val) (string, bool) {
	switch v := v.(type) {
	case types.String:
		return string(v), true
	case types.Bytes:
		return string(v), true
	case types.Bool:
		return strconv.FormatBool(bool(v)), true
	case types.Int:
		return strconv.FormatInt(int64(v), 10), true
	case types.Uint:
		return strconv.FormatUint(uint64(v), 10), true
	case types.Double:
		return strconv.FormatFloat(float64(v), 'g', -1, 64), true
	case types.Timestamp:
		return v.Time.UTC().Format(time.RFC3339Nano), true
	case types.Duration:
		return v.String(), true
	case types.Null:
		return "", false
	}
	if s, err := v.ConvertToNative(structValueType); err == nil {
		return string(appendValue(nil, s.(*structpb.Value).AsInterface())), true
	}
	return fmt.Sprint(v.Value()), true
}

// celOperator is %CEL(EXPRESSION)% and, with the value's own type in JSON, %TYPED_CEL(EXPRESSION)%.
func celOperator(typed bool) func(string) (*operator, error) {
	return func(arg string) (*operator, error) {
		x, err := CompileExpression(arg)
		if err != nil {
			return nil, err
		}
		if typed {
			return &operator{value: x.Value}, nil
		}
		return &operator{text: func(dst []byte, e *Entry) ([]byte, bool) {
			s, ok := x.Text(e)
			return append(dst, s...), ok
		}}, nil
	}
}
