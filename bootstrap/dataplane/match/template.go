package match

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

var (
	templateLiteral  = regexp.MustCompile(`\A[` + pchar + `]+\z`)
	templateVariable = regexp.MustCompile(`\A[a-zA-Z][a-zA-Z0-9_]*\z`)
)

// templateParser turns a template into an RE2 expression and holds what has to
// be known across segments.
type templateParser struct {
	names    map[string]bool
	textGlob bool // a "**" was seen
}

func (t *templateParser) parse(rest string) (string, error) {
	if !strings.HasPrefix(rest, "/") {
		return "", errors.New("does not start with a slash")
	}
	var expr strings.Builder
	rest = rest[1:]
	expr.WriteByte('/')
	for rest != "" {
		segment, tail, err := t.segment(rest)
		if err != nil {
			return "", err
		}
		expr.WriteString(segment)
		switch {
		case tail == "":
			return expr.String(), nil
		case tail[0] == '/':
			expr.WriteByte('/')
			rest = tail[1:]
		default:
			suffix, err := literal(tail)
			if err != nil {
				return "", fmt.Errorf("after an operator or variable: %w", err)
			}
			expr.WriteString(suffix)
			return expr.String(), nil
		}
	}
	return expr.String(), nil
}

func (t *templateParser) segment(s string) (expr, tail string, err error) {
	switch s[0] {
	case '*':
		return t.operator(s)
	case '{':
		return t.variable(s)
	default:
		text, _, _ := strings.Cut(s, "/")
		expr, err = literal(text)
		return expr, s[len(text):], err
	}
}

func (t *templateParser) operator(s string) (expr, tail string, err error) {
	if t.textGlob {
		return "", "", errors.New(`only literals may follow "**"`)
	}
	if strings.HasPrefix(s, "**") {
		t.textGlob = true
		return `[` + pchar + `/]*`, s[2:], nil
	}
	return `[` + pchar + `]+`, s[1:], nil
}

func (t *templateParser) variable(s string) (expr, tail string, err error) {
	body, tail, ok := strings.Cut(s[1:], "}")
	if !ok {
		return "", "", errors.New("unmatched {")
	}
	name, pattern, hasPattern := strings.Cut(body, "=")
	switch {
	case !templateVariable.MatchString(name) || len(name) > maxVariableName:
		return "", "", fmt.Errorf("bad variable name %q", name)
	case t.names[name]:
		return "", "", fmt.Errorf("variable %q is repeated", name)
	case len(t.names) == maxVariables:
		return "", "", fmt.Errorf("more than %d variables", maxVariables)
	case hasPattern && pattern == "":
		return "", "", fmt.Errorf("variable %q has an empty pattern", name)
	case !hasPattern:
		pattern = "*"
	}
	t.names[name] = true
	var parts []string
	for part := range strings.SplitSeq(pattern, "/") {
		var text, left string
		if strings.HasPrefix(part, "*") {
			text, left, err = t.operator(part)
		} else {
			text, err = literal(part)
		}
		if err == nil && left != "" {
			err = fmt.Errorf("%q follows an operator", left)
		}
		if err != nil {
			return "", "", fmt.Errorf("variable %q: %w", name, err)
		}
		parts = append(parts, text)
	}
	return "(" + strings.Join(parts, "/") + ")", tail, nil
}

func literal(s string) (string, error) {
	if !templateLiteral.MatchString(s) {
		return "", fmt.Errorf("bad literal %q", s)
	}
	return regexp.QuoteMeta(s), nil
}
