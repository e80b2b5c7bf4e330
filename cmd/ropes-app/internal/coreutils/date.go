package coreutils

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

func date(_ context.Context, call *applet.Call) int {
	var opts applet.Options
	var utc, mail bool
	var when, iso string
	opts.Bool(&utc, "u utc")
	opts.Bool(&mail, "R rfc-email")
	opts.String(&when, "d date")
	opts.Func("I", func() { iso = "date" })
	opts.Value("iso-8601", func(v string) error {
		if !slices.Contains([]string{"date", "hours", "minutes", "seconds", "ns"}, v) {
			return fmt.Errorf("%q is not date, hours, minutes, seconds or ns", v)
		}
		iso = v
		return nil
	})
	for i, a := range call.Args { // the one option with a value that must follow at once
		if v, ok := strings.CutPrefix(a, "-I"); ok && v != "" {
			call.Args = slices.Clone(call.Args)
			call.Args[i] = "--iso-8601=" + v
		}
	}
	args, status := options(call, &opts)
	if status != applet.OK {
		return status
	}
	t := time.Now()
	if when != "" {
		var err error
		if t, err = parseTime(when); err != nil {
			return call.Misused(err)
		}
	}
	if utc {
		t = t.UTC()
	}
	isoLayouts := map[string]string{
		"date": "2006-01-02", "hours": "2006-01-02T15-07:00", "minutes": "2006-01-02T15:04-07:00",
		"seconds": "2006-01-02T15:04:05-07:00", "ns": "2006-01-02T15:04:05,000000000-07:00",
	}
	switch {
	case len(args) > 1 || len(args) == 1 && !strings.HasPrefix(args[0], "+"):
		return call.Misused(errors.New("usage: date [-u] [-d TIME] [-R | -I[seconds] | +FORMAT]"))
	case len(args) == 1:
		text, err := strftime(t, args[0][1:])
		if err != nil {
			return call.Misused(err)
		}
		fmt.Fprintln(call.Out, text)
	case iso != "":
		fmt.Fprintln(call.Out, t.Format(isoLayouts[iso]))
	case mail:
		fmt.Fprintln(call.Out, t.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	default:
		fmt.Fprintln(call.Out, t.Format("Mon Jan _2 15:04:05 MST 2006"))
	}
	return applet.OK
}

func parseTime(s string) (time.Time, error) {
	if s == "now" {
		return time.Now(), nil
	}
	if n, ok := strings.CutPrefix(s, "@"); ok {
		sec, err := strconv.ParseInt(n, 10, 64)
		if err == nil {
			return time.Unix(sec, 0), nil
		}
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as @1700000000 or 2030-01-31T12:00:00Z", s)
}

// strftime writes t by POSIX's conversions.
func strftime(t time.Time, format string) (string, error) {
	layouts := map[byte]string{
		'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05", 'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06", 'R': "15:04",
		'y': "06", 'e': "_2", 'I': "03", 'p': "PM", 'a': "Mon", 'A': "Monday", 'b': "Jan", 'h': "Jan", 'B': "January", 'j': "002", 'z': "-0700", 'Z': "MST",
		'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06", 'X': "15:04:05",
	}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		switch c := format[i]; c {
		case '%':
			b.WriteByte('%')
		case 'n':
			b.WriteByte('\n')
		case 't':
			b.WriteByte('\t')
		case 's':
			fmt.Fprint(&b, t.Unix())
		case 'N':
			fmt.Fprintf(&b, "%09d", t.Nanosecond())
		case 'u':
			fmt.Fprint(&b, (int(t.Weekday())+6)%7+1)
		case 'w':
			fmt.Fprint(&b, int(t.Weekday()))
		default:
			layout, ok := layouts[c]
			if !ok {
				return "", fmt.Errorf("unknown conversion %%%c", c)
			}
			b.WriteString(t.Format(layout))
		}
	}
	return b.String(), nil
}
