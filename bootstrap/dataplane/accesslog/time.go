package accesslog

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// timeOperator builds an operator that prints a point in time by a strftime
// format, or as ISO 8601 with milliseconds without one.
func timeOperator(at func(*Entry) time.Time, zone *time.Location) func(string) (*operator, error) {
	return func(format string) (*operator, error) {
		if format == "" {
			format = "%Y-%m-%dT%H:%M:%E3SZ"
			if zone != time.UTC {
				format = "%Y-%m-%dT%H:%M:%E3S%z"
			}
		}
		parts, err := strftime(format)
		if err != nil {
			return nil, err
		}
		return &operator{text: func(dst []byte, e *Entry) ([]byte, bool) {
			t := at(e)
			if t.IsZero() {
				return dst, false
			}
			t = t.In(zone)
			for _, p := range parts {
				dst = p(dst, t)
			}
			return dst, true
		}}, nil
	}
}

type timePart func(dst []byte, t time.Time) []byte

// layouts are the specifiers that Go's layouts can express.
var layouts = map[byte]string{
	'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05", 'y': "06", 'j': "002",
	'e': "_2", 'b': "Jan", 'h': "Jan", 'B': "January", 'a': "Mon", 'A': "Monday", 'I': "03", 'p': "PM",
	'z': "-0700", 'Z': "MST", 'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06", 'R': "15:04",
	'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06", 'X': "15:04:05", 'r': "03:04:05 PM",
}

// strftime compiles a format with the specifiers of strftime, and Envoy's %s
// (seconds since the epoch), %f and %Nf (fraction, N digits) and %ENS, %ENf, %E*S,
// %Ez.
func strftime(format string) ([]timePart, error) {
	var parts []timePart
	add := func(p timePart) { parts = append(parts, p) }
	for format != "" {
		i := strings.IndexByte(format, '%')
		if i < 0 {
			i = len(format)
		}
		if text := format[:i]; text != "" {
			add(func(dst []byte, _ time.Time) []byte { return append(dst, text...) })
		}
		format = format[i:]
		if format == "" {
			break
		}
		n, part, err := specifier(format[1:])
		if err != nil {
			return nil, err
		}
		add(part)
		format = format[1+n:]
	}
	return parts, nil
}

// specifier compiles what follows a percent sign and returns its length.
func specifier(s string) (int, timePart, error) {
	if s == "" {
		return 0, nil, fmt.Errorf("time format ends in %%")
	}
	switch c := s[0]; {
	case c == '%':
		return 1, func(dst []byte, _ time.Time) []byte { return append(dst, '%') }, nil
	case c == 't':
		return 1, func(dst []byte, _ time.Time) []byte { return append(dst, '\t') }, nil
	case c == 's':
		return 1, func(dst []byte, t time.Time) []byte { return strconv.AppendInt(dst, t.Unix(), 10) }, nil
	case c == 'f':
		return 1, fraction(9), nil
	case c == 'u':
		return 1, func(dst []byte, t time.Time) []byte {
			return strconv.AppendInt(dst, int64((t.Weekday()+6)%7+1), 10)
		}, nil
	case c == 'w':
		return 1, func(dst []byte, t time.Time) []byte { return strconv.AppendInt(dst, int64(t.Weekday()), 10) }, nil
	case '1' <= c && c <= '9' && strings.HasPrefix(s[1:], "f"):
		return 2, fraction(int(c - '0')), nil
	case c == 'E':
		return extended(s)
	case layouts[c] != "":
		layout := layouts[c]
		return 1, func(dst []byte, t time.Time) []byte { return t.AppendFormat(dst, layout) }, nil
	default:
		return 0, nil, fmt.Errorf("time format specifier %%%c is not supported", c)
	}
}

// extended compiles the specifiers that begin with E: ENS, ENf, E*S, E*f, Ez.
func extended(s string) (int, timePart, error) {
	if strings.HasPrefix(s, "Ez") {
		return 2, func(dst []byte, t time.Time) []byte { return t.AppendFormat(dst, "-07:00") }, nil
	}
	if len(s) >= 3 && (s[2] == 'S' || s[2] == 'f') && (s[1] == '*' || '0' <= s[1] && s[1] <= '9') {
		digits := 9
		if s[1] != '*' {
			digits = int(s[1] - '0')
		}
		trim := s[1] == '*'
		if s[2] == 'f' {
			return 3, trimmed(fraction(digits), trim), nil
		}
		frac := fraction(digits)
		return 3, trimmed(func(dst []byte, t time.Time) []byte {
			dst = t.AppendFormat(dst, "05")
			if digits == 0 {
				return dst
			}
			return frac(append(dst, '.'), t)
		}, trim), nil
	}
	return 0, nil, fmt.Errorf("time format specifier %%%.3s is not supported", s)
}

// trimmed removes trailing zeros, and a dot that then ends the part.
func trimmed(p timePart, trim bool) timePart {
	if !trim {
		return p
	}
	return func(dst []byte, t time.Time) []byte {
		if t.Nanosecond() == 0 {
			start := len(dst)
			dst = p(dst, t)
			if i := strings.IndexByte(string(dst[start:]), '.'); i >= 0 {
				return dst[:start+i]
			}
			return append(dst[:start], '0')
		}
		dst = p(dst, t)
		for dst[len(dst)-1] == '0' {
			dst = dst[:len(dst)-1]
		}
		return dst
	}
}

// fraction prints the first digits of the fraction of the second.
func fraction(digits int) timePart {
	return func(dst []byte, t time.Time) []byte {
		n := t.Nanosecond()
		for d, unit := 0, 100_000_000; d < digits; d, unit = d+1, unit/10 {
			dst = append(dst, byte('0'+n/unit%10))
		}
		return dst
	}
}
