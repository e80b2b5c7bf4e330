package coreutils

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// sorter compares lines.
type sorter struct {
	numeric, reverse, fold bool
	from, to               int // fields to compare, from 1; from 0 is the whole line, to 0 up to its end
	separator              string
}

func sortLines(ctx context.Context, call *applet.Call) int {
	var opts applet.Options
	var s sorter
	var unique bool
	opts.Bool(&s.numeric, "n numeric-sort")
	opts.Bool(&s.reverse, "r reverse")
	opts.Bool(&s.fold, "f ignore-case")
	opts.Bool(&unique, "u unique")
	opts.String(&s.separator, "t field-separator")
	opts.Value("k key", func(v string) error {
		if s.from != 0 {
			return errors.New("a second key is not supported")
		}
		for i, end := range strings.SplitN(v, ",", 2) {
			digits := strings.TrimRight(end, "nr")
			s.numeric = s.numeric || strings.Contains(end, "n")
			s.reverse = s.reverse || strings.Contains(end, "r")
			n, err := strconv.Atoi(digits)
			if err != nil || n < 1 {
				return fmt.Errorf("%q is not a field such as 2, 2n or 2,2", v)
			}
			if i == 0 {
				s.from = n
			} else {
				s.to = n
			}
		}
		return nil
	})
	names, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	var lines []string
	status = eachInput(ctx, call, names, func(_ string, r io.Reader) error {
		return eachLine(r, func(line []byte) error {
			lines = append(lines, string(bytes.TrimSuffix(line, []byte{'\n'})))
			return nil
		})
	})
	slices.SortStableFunc(lines, func(a, b string) int {
		c := s.compare(a, b)
		if c == 0 && !unique {
			c = strings.Compare(a, b)
		}
		if s.reverse {
			c = -c
		}
		return c
	})
	if unique {
		lines = slices.CompactFunc(lines, func(a, b string) bool { return s.compare(a, b) == 0 })
	}
	return buffered(call, func(w *bufio.Writer) int {
		for _, l := range lines {
			fmt.Fprintln(w, l)
		}
		return status
	})
}

func (s sorter) compare(a, b string) int {
	a, b = s.field(a), s.field(b)
	if s.fold {
		a, b = strings.ToLower(a), strings.ToLower(b)
	}
	if s.numeric {
		switch x, y := leadingNumber(a), leadingNumber(b); {
		case x < y:
			return -1
		case x > y:
			return 1
		default:
			return 0
		}
	}
	return strings.Compare(a, b)
}

// field is the part of the line that is compared.
func (s sorter) field(line string) string {
	if s.from == 0 {
		return line
	}
	var fields []string
	sep := s.separator
	if sep == "" {
		fields, sep = strings.Fields(line), " "
	} else {
		fields = strings.Split(line, sep)
	}
	to := len(fields)
	if s.to > 0 {
		to = min(to, s.to)
	}
	if s.from > to {
		return ""
	}
	return strings.Join(fields[s.from-1:to], sep)
}

// leadingNumber is the number that s starts with, 0 where it starts with none.
func leadingNumber(s string) float64 {
	s = strings.TrimLeft(s, " \t")
	end := 0
	for end < len(s) && (s[end] >= '0' && s[end] <= '9' || s[end] == '.' || end == 0 && s[end] == '-') {
		end++
	}
	n, _ := strconv.ParseFloat(s[:end], 64) // 0 where it is none
	return n
}

// span is a range of positions from 1, both ends in it; to is 0 where it is open.
type span struct{ from, to int }

// parseSpans reads a list such as 1,3-5,7-.
func parseSpans(list string) ([]span, error) {
	var spans []span
	for part := range strings.SplitSeq(list, ",") {
		from, to, ranged := strings.Cut(part, "-")
		var s span
		var err, err2 error
		s.from = 1
		if from != "" {
			s.from, err = strconv.Atoi(from)
		}
		if !ranged {
			s.to = s.from
		} else if to != "" {
			s.to, err2 = strconv.Atoi(to)
		}
		if err != nil || err2 != nil || s.from < 1 || part == "" || part == "-" || s.to != 0 && s.to < s.from {
			return nil, fmt.Errorf("%q is not a list such as 1,3-5", list)
		}
		spans = append(spans, s)
	}
	return spans, nil
}

func chosen(spans []span, position int) bool {
	return slices.ContainsFunc(spans, func(s span) bool { return position >= s.from && (s.to == 0 || position <= s.to) })
}

func cut(ctx context.Context, call *applet.Call) int {
	var opts applet.Options
	var fields, chars []span
	delimiter, only := "\t", false
	opts.Value("f fields", func(v string) (err error) { fields, err = parseSpans(v); return err })
	opts.Value("c characters b", func(v string) (err error) { chars, err = parseSpans(v); return err })
	opts.String(&delimiter, "d delimiter")
	opts.Bool(&only, "s only-delimited")
	names, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	if (fields == nil) == (chars == nil) {
		return call.Misused(errors.New("give either -f or -c"))
	}
	if len([]rune(delimiter)) != 1 {
		return call.Misused(errors.New("the delimiter is one character"))
	}
	return buffered(call, func(w *bufio.Writer) int {
		return eachInput(ctx, call, names, func(_ string, r io.Reader) error {
			return eachLine(r, func(b []byte) error {
				line := strings.TrimSuffix(string(b), "\n")
				sep, parts := delimiter, strings.Split(line, delimiter)
				spans := fields
				if chars != nil {
					sep, parts, spans = "", strings.Split(line, ""), chars
				} else if len(parts) == 1 {
					if !only {
						fmt.Fprintln(w, line)
					}
					return nil
				}
				var kept []string
				for i, p := range parts {
					if chosen(spans, i+1) {
						kept = append(kept, p)
					}
				}
				fmt.Fprintln(w, strings.Join(kept, sep))
				return nil
			})
		})
	})
}

func tr(ctx context.Context, call *applet.Call) int {
	var opts applet.Options
	var remove, squeeze, complement bool
	opts.Bool(&remove, "d delete")
	opts.Bool(&squeeze, "s squeeze-repeats")
	opts.Bool(&complement, "c C complement")
	sets, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	want := 2
	if remove || squeeze && len(sets) == 1 {
		want = 1
	}
	if len(sets) != want {
		return call.Misused(fmt.Errorf("%d sets given, %d needed", len(sets), want))
	}
	from, err := expandSet(sets[0])
	if err != nil {
		return call.Misused(err)
	}
	var to []rune
	if want == 2 {
		if to, err = expandSet(sets[1]); err != nil {
			return call.Misused(err)
		}
		if len(to) == 0 {
			return call.Misused(errors.New("the second set is empty"))
		}
	}
	return buffered(call, func(w *bufio.Writer) int {
		in := bufio.NewReader(call.In)
		last, any := rune(0), false
		for {
			c, _, err := in.ReadRune()
			if errors.Is(err, io.EOF) {
				return applet.OK
			}
			if err != nil {
				if ctx.Err() != nil {
					return applet.Ended(ctx)
				}
				return call.Fail(reason(err))
			}
			at := slices.Index(from, c)
			hit := at >= 0 != complement
			if hit && remove {
				continue
			}
			if hit && to != nil {
				if complement {
					at = len(to) - 1
				}
				c = to[min(at, len(to)-1)]
			}
			if squeeze && hit && any && c == last {
				continue
			}
			last, any = c, true
			if _, err := w.WriteRune(c); err != nil {
				return applet.Failure
			}
		}
	})
}

// classes are the character classes that expandSet knows, of ASCII.
var classes = map[string]string{
	"[:digit:]": "0-9", "[:lower:]": "a-z", "[:upper:]": "A-Z", "[:alpha:]": "A-Za-z", "[:alnum:]": "0-9A-Za-z",
	"[:space:]": `\t\n\v\f\r `, "[:blank:]": `\t `, "[:punct:]": `!-/:-@[-` + "`" + `{-~`,
}

// expandSet reads characters, ranges, escapes and classes.
func expandSet(set string) ([]rune, error) {
	for class, members := range classes {
		set = strings.ReplaceAll(set, class, members)
	}
	if strings.Contains(set, "[:") {
		return nil, fmt.Errorf("unknown class in %q", set)
	}
	escapes := map[rune]rune{'n': '\n', 't': '\t', 'r': '\r', 'v': '\v', 'f': '\f', '0': 0, '\\': '\\'}
	var out []rune
	in := []rune(set)
	for i := 0; i < len(in); i++ {
		c := in[i]
		if c == '\\' && i+1 < len(in) {
			i++
			if e, ok := escapes[in[i]]; ok {
				c = e
			} else {
				c = in[i]
			}
		} else if i+2 < len(in) && in[i+1] == '-' {
			if in[i+2] < c {
				return nil, fmt.Errorf("range %c-%c runs backward", c, in[i+2])
			}
			for r := c; r < in[i+2]; r++ {
				out = append(out, r)
			}
			c = in[i+2]
			i += 2
		}
		out = append(out, c)
	}
	return out, nil
}
