package accesslog

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/cel/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/metadata/v3"
	reqwithoutqueryv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/req_without_query/v3"
)

// extensions are the formatter plugins that a format has switched on.
type extensions struct{ reqWithoutQuery bool }

func (x *extensions) add(c *corev3.TypedExtensionConfig) error {
	switch {
	case c.GetTypedConfig().MessageIs((*reqwithoutqueryv3.ReqWithoutQuery)(nil)):
		x.reqWithoutQuery = true
	case c.GetTypedConfig().MessageIs((*metadatav3.Metadata)(nil)), c.GetTypedConfig().MessageIs((*celv3.Cel)(nil)):
		// %METADATA% and %CEL% are always understood.
	default:
		return fmt.Errorf("access log format: formatter %q (%s) is not supported", c.GetName(), c.GetTypedConfig().GetTypeUrl())
	}
	return nil
}

// A command is %NAME%, %NAME(ARGUMENT)%, %NAME:LENGTH% or %NAME(ARGUMENT):LENGTH%.
var command = regexp.MustCompile(`\A%([A-Z0-9_]+)(\(([^)]*)\))?(?::([0-9]+))?%`)

func parse(format string, ext extensions) ([]piece, error) {
	var pieces []piece
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			pieces = append(pieces, piece{literal: literal.String()})
			literal.Reset()
		}
	}
	for at := 0; at < len(format); {
		if format[at] != '%' {
			literal.WriteByte(format[at])
			at++
			continue
		}
		if strings.HasPrefix(format[at:], "%%") {
			literal.WriteByte('%')
			at += 2
			continue
		}
		m := expressionCommand(format[at:])
		if m == nil {
			m = command.FindStringSubmatch(format[at:])
		}
		if m == nil {
			return nil, fmt.Errorf("no command operator at position %d: %.40q", at, format[at:])
		}
		op, err := newOperator(m, ext)
		if err != nil {
			return nil, fmt.Errorf("operator %s: %w", m[1], err)
		}
		flush()
		pieces = append(pieces, piece{op: op})
		at += len(m[0])
	}
	flush()
	return pieces, nil
}

// expressionCommand finds %CEL(...)% and %TYPED_CEL(...)%, whose argument may hold parentheses and quotes, in the form of
// command's submatches; nil where format does not begin with one.
func expressionCommand(format string) []string {
	name, rest, ok := strings.Cut(format[1:], "(")
	if !ok || name != "CEL" && name != "TYPED_CEL" {
		return nil
	}
	depth, quote := 1, byte(0)
	for i := 0; i < len(rest); i++ {
		switch c := rest[i]; {
		case quote != 0:
			switch c {
			case '\\':
				i++
			case quote:
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '(':
			depth++
		case c == ')':
			depth--
		}
		if depth > 0 {
			continue
		}
		end := lengthSuffix.FindStringSubmatch(rest[i+1:])
		if end == nil {
			return nil
		}
		whole := format[:1+len(name)+1+i+1+len(end[0])]
		return []string{whole, name, "(" + rest[:i] + ")", rest[:i], end[1]}
	}
	return nil
}

var lengthSuffix = regexp.MustCompile(`\A(?::([0-9]+))?%`)

// newOperator makes the operator from the parts of a command: all of it, its
// name, "(argument)", the argument, the length.
func newOperator(m []string, ext extensions) (*operator, error) {
	name, hasArgument, argument := m[1], m[2] != "", m[3]
	o, ok := operators[name]
	if !ok || name == "REQ_WITHOUT_QUERY" && !ext.reqWithoutQuery {
		return nil, fmt.Errorf("not supported")
	}
	switch {
	case o.argument == none && hasArgument:
		return nil, fmt.Errorf("takes no argument, got %q", argument)
	case o.argument == required && argument == "":
		return nil, fmt.Errorf("needs an argument")
	case m[4] != "" && !o.length:
		return nil, fmt.Errorf("takes no length, got %s", m[4])
	}
	op, err := o.build(argument)
	if err != nil {
		return nil, err
	}
	if m[4] != "" {
		n, err := strconv.Atoi(m[4])
		if err != nil {
			return nil, fmt.Errorf("length: %w", err)
		}
		op.limit, op.limited = n, true
	}
	return op, nil
}
