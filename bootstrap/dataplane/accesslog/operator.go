package accesslog

import (
	"math"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// text appends a value and tells whether there is one; when not, dst is
// unchanged.
type text func(dst []byte, e *Entry) ([]byte, bool)

// operator is a compiled command.
type operator struct {
	text text
	// number: the text is a JSON number.
	number bool
	// value, when set, is the source of a value that may be structured; text is
	// unused then.
	value func(e *Entry) (any, bool)
	// quote: a string value keeps its quotes in text too.
	quote   bool
	limit   int
	limited bool
}

func (o *operator) appendText(dst []byte, e *Entry) ([]byte, bool) {
	start := len(dst)
	var ok bool
	if o.value != nil {
		var v any
		if v, ok = o.value(e); !ok || v == nil {
			return dst, false
		}
		if s, isString := v.(string); isString && !o.quote {
			dst = append(dst, s...)
		} else {
			dst = appendValue(dst, v)
		}
	} else {
		dst, ok = o.text(dst, e)
	}
	if ok && o.limited && len(dst)-start > o.limit {
		dst = dst[:start+o.limit]
	}
	return dst, ok
}

// appendJSON appends the JSON value, null when there is none.
func (o *operator) appendJSON(dst []byte, e *Entry) ([]byte, bool) {
	if o.value != nil {
		v, ok := o.value(e)
		if !ok || v == nil {
			return append(dst, "null"...), false
		}
		if s, isString := v.(string); isString && o.limited && len(s) > o.limit {
			v = s[:o.limit]
		}
		return appendValue(dst, v), true
	}
	start := len(dst)
	if !o.number {
		dst = append(dst, '"')
	}
	dst, ok := o.appendText(dst, e)
	if !ok {
		return append(dst[:start], "null"...), false
	}
	if o.number {
		return dst, true
	}
	return append(escapeTail(dst, start+1), '"'), true
}

// What an operator may be given in parentheses.
type argument int

const (
	none argument = iota
	optional
	required
)

type definition struct {
	argument argument
	length   bool
	build    func(arg string) (*operator, error)
}

func plain(t text) definition {
	return definition{build: func(string) (*operator, error) { return &operator{text: t}, nil }}
}

func numeric(t text) definition {
	return definition{build: func(string) (*operator, error) { return &operator{text: t, number: true}, nil }}
}

func str(get func(*Entry) string) text {
	return func(dst []byte, e *Entry) ([]byte, bool) {
		s := get(e)
		return append(dst, s...), s != ""
	}
}

// underscored is str with white space turned into underscores, so that the value
// stays one field of the line.
func underscored(get func(*Entry) string) text {
	return func(dst []byte, e *Entry) ([]byte, bool) {
		s := get(e)
		if strings.ContainsAny(s, " \t\n\v\f\r") {
			s = strings.Map(func(r rune) rune {
				if strings.ContainsRune(" \t\n\v\f\r", r) {
					return '_'
				}
				return r
			}, s)
		}
		return append(dst, s...), s != ""
	}
}

func count(get func(*Entry) uint64) text {
	return func(dst []byte, e *Entry) ([]byte, bool) {
		return strconv.AppendUint(dst, get(e), 10), true
	}
}

func addr(get func(*Entry) netip.AddrPort) text {
	return func(dst []byte, e *Entry) ([]byte, bool) {
		a := get(e)
		if !a.IsValid() {
			return dst, false
		}
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).AppendTo(dst), true
	}
}

func host(get func(*Entry) netip.AddrPort) text {
	return func(dst []byte, e *Entry) ([]byte, bool) {
		a := get(e)
		if !a.IsValid() {
			return dst, false
		}
		return a.Addr().Unmap().AppendTo(dst), true
	}
}

func port(get func(*Entry) netip.AddrPort) text {
	return func(dst []byte, e *Entry) ([]byte, bool) {
		a := get(e)
		if !a.IsValid() {
			return dst, false
		}
		return strconv.AppendUint(dst, uint64(a.Port()), 10), true
	}
}

// between prints the time from one point to another in whole units, where both
// happened.
func between(from, to func(*Entry) time.Time, unit time.Duration) text {
	return func(dst []byte, e *Entry) ([]byte, bool) {
		a, b := from(e), to(e)
		if a.IsZero() || b.IsZero() || b.Before(a) {
			return dst, false
		}
		return strconv.AppendInt(dst, int64(b.Sub(a)/unit), 10), true
	}
}

// hostname is read once, as by Envoy.
func hostname(string) (*operator, error) {
	name, err := os.Hostname()
	return &operator{text: func(dst []byte, _ *Entry) ([]byte, bool) {
		return append(dst, name...), err == nil && name != ""
	}}, nil
}

// environment is read once, as by Envoy, which prints "-" even in JSON.
func environment(key string) (*operator, error) {
	v, ok := os.LookupEnv(key)
	if !ok {
		v = "-"
	}
	return &operator{text: func(dst []byte, _ *Entry) ([]byte, bool) { return append(dst, v...), true }}, nil
}

func appendNumber(dst []byte, f float64) []byte {
	if math.Trunc(f) == f && math.Abs(f) < 1<<53 {
		return strconv.AppendInt(dst, int64(f), 10)
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(dst, "null"...)
	}
	return strconv.AppendFloat(dst, f, 'g', -1, 64)
}
