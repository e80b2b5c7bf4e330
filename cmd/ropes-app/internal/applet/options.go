package applet

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrUnknownOption is wrapped by the error for an option that the program has not.
var ErrUnknownOption = errors.New("unknown option")

// Options is the set of options of one program, read as getopt_long reads them: short ones
// can be joined (-la), a value may follow at once or as the next word (-n5, -n 5,
// --lines=5, --lines 5), and -- ends them.
type Options struct {
	// StopAtOperand ends the options at the first operand, as for `env`; otherwise
	// options may stand behind operands.
	StopAtOperand bool
	options       []*option
}

type option struct {
	names []string // without dashes; of one letter: short
	value bool     // takes a value
	set   func(string) error
}

// Bool adds an option without value; names are separated by spaces: "a all".
func (o *Options) Bool(p *bool, names string) {
	o.Func(names, func() { *p = true })
}

// Func adds an option without value that does something.
func (o *Options) Func(names string, fn func()) {
	o.options = append(o.options, &option{names: strings.Fields(names), set: func(string) error { fn(); return nil }})
}

// Ignore adds options without value that change nothing here.
func (o *Options) Ignore(names string) {
	for _, n := range strings.Fields(names) {
		o.Func(n, func() {})
	}
}

// String adds an option whose value is a string.
func (o *Options) String(p *string, names string) {
	o.Value(names, func(v string) error { *p = v; return nil })
}

// Strings adds an option that may be given several times.
func (o *Options) Strings(p *[]string, names string) {
	o.Value(names, func(v string) error { *p = append(*p, v); return nil })
}

// Int adds an option whose value is a whole number.
func (o *Options) Int(p *int, names string) {
	o.Value(names, func(v string) error {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", v)
		}
		*p = n
		return nil
	})
}

// Value adds an option with a value, which fn takes.
func (o *Options) Value(names string, fn func(string) error) {
	o.options = append(o.options, &option{names: strings.Fields(names), value: true, set: fn})
}

// Parse reads args and returns the operands. Its errors name the option.
func (o *Options) Parse(args []string) ([]string, error) {
	var operands []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		var used int
		var err error
		switch {
		case a == "--":
			return append(operands, args[i+1:]...), nil
		case strings.HasPrefix(a, "--"):
			used, err = o.long(a[2:], args[i+1:])
		case len(a) > 1 && a[0] == '-':
			used, err = o.short(a[1:], args[i+1:])
		case o.StopAtOperand:
			return append(operands, args[i:]...), nil
		default:
			operands = append(operands, a)
		}
		if err != nil {
			return nil, err
		}
		i += used
	}
	return operands, nil
}

func (o *Options) find(name string) *option {
	for _, opt := range o.options {
		for _, n := range opt.names {
			if n == name {
				return opt
			}
		}
	}
	return nil
}

// long reads --word and says how many of the words after it were its value.
func (o *Options) long(word string, after []string) (int, error) {
	name, value, has := strings.Cut(word, "=")
	opt := o.find(name)
	if opt == nil || len(name) == 1 {
		return 0, fmt.Errorf("%w --%s", ErrUnknownOption, name)
	}
	switch {
	case !opt.value && has:
		return 0, fmt.Errorf("option --%s takes no value", name)
	case opt.value && !has && len(after) == 0:
		return 0, fmt.Errorf("option --%s needs a value", name)
	case opt.value && !has:
		return 1, named("--"+name, opt.set(after[0]))
	}
	return 0, named("--"+name, opt.set(value))
}

// short reads the letters of one word.
func (o *Options) short(letters string, after []string) (int, error) {
	for i := range len(letters) {
		name := letters[i : i+1]
		opt := o.find(name)
		switch {
		case opt == nil:
			return 0, fmt.Errorf("%w -%s", ErrUnknownOption, name)
		case !opt.value:
			if err := named("-"+name, opt.set("")); err != nil {
				return 0, err
			}
		case i+1 < len(letters):
			return 0, named("-"+name, opt.set(letters[i+1:]))
		case len(after) == 0:
			return 0, fmt.Errorf("option -%s needs a value", name)
		default:
			return 1, named("-"+name, opt.set(after[0]))
		}
	}
	return 0, nil
}

func named(name string, err error) error {
	if err != nil {
		return fmt.Errorf("option %s: %w", name, err)
	}
	return nil
}
