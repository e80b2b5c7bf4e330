package tracing

import (
	"encoding/hex"
	"net/http"
	"strings"
)

// Context says where in which trace a span is. A zero Parent means that there is none.
type Context struct {
	TraceID [16]byte
	Long    bool // the trace's id has 128 bits
	SpanID  [8]byte
	Parent  [8]byte
	Sampled bool
	State   string // tracestate
}

// TraceHex returns the trace's id in hexadecimal.
func (c *Context) TraceHex() string {
	if !c.Long {
		return hex.EncodeToString(c.TraceID[8:])
	}
	return hex.EncodeToString(c.TraceID[:])
}

// SpanHex returns the span's id in hexadecimal.
func (c *Context) SpanHex() string { return hex.EncodeToString(c.SpanID[:]) }

// Header names in canonical form.
const (
	traceparent  = "Traceparent"
	tracestate   = "Tracestate"
	b3           = "B3"
	b3TraceID    = "X-B3-Traceid"
	b3SpanID     = "X-B3-Spanid"
	b3ParentID   = "X-B3-Parentspanid"
	b3Sampled    = "X-B3-Sampled"
	b3Flags      = "X-B3-Flags"
	maxStateSize = 8 << 10
)

// incoming is what headers say of the caller.
type incoming struct {
	Context
	found   bool // there is a caller's span
	decided bool // Sampled is the caller's word
}

func first(h http.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// fromW3C reads traceparent and tracestate. What is malformed counts as absent.
func fromW3C(h http.Header) incoming {
	var in incoming
	v := first(h, traceparent)
	// version "-" trace id "-" parent id "-" flags
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' || v[:2] == "ff" || v[:2] == "00" && len(v) != 55 {
		return in
	}
	if len(v) > 55 && v[55] != '-' || strings.ToLower(v[:55]) != v[:55] {
		return in
	}
	var version, flags [1]byte
	for _, p := range []struct {
		dst  []byte
		text string
	}{{version[:], v[:2]}, {in.TraceID[:], v[3:35]}, {in.SpanID[:], v[36:52]}, {flags[:], v[53:55]}} {
		if _, err := hex.Decode(p.dst, []byte(p.text)); err != nil {
			return incoming{}
		}
	}
	if in.TraceID == ([16]byte{}) || in.SpanID == ([8]byte{}) {
		return incoming{}
	}
	in.Long, in.found, in.decided, in.Sampled = true, true, true, flags[0]&1 == 1
	if s := strings.Join(h[tracestate], ","); len(s) <= maxStateSize {
		in.State = s
	}
	return in
}

func (c *Context) toW3C(h http.Header) {
	var b [55]byte
	copy(b[:], "00-")
	hex.Encode(b[3:], c.TraceID[:])
	b[35] = '-'
	hex.Encode(b[36:], c.SpanID[:])
	copy(b[52:], "-00")
	if c.Sampled {
		b[54] = '1'
	}
	h[traceparent] = []string{string(b[:])}
	if c.State != "" {
		h[tracestate] = []string{c.State}
	}
}

// fromB3 reads the single header, else the headers of the long form.
func fromB3(h http.Header) incoming {
	trace, span, parent := first(h, b3TraceID), first(h, b3SpanID), first(h, b3ParentID)
	sampled := first(h, b3Sampled)
	if first(h, b3Flags) == "1" {
		sampled = "d"
	}
	if one := first(h, b3); one != "" {
		parts := strings.Split(one, "-")
		if len(parts) == 1 {
			sampled = parts[0]
		} else {
			trace, span, parent = parts[0], parts[1], ""
			if len(parts) > 2 {
				sampled = parts[2]
			}
			if len(parts) > 3 {
				parent = parts[3]
			}
		}
	}
	var in incoming
	switch strings.ToLower(sampled) {
	case "1", "d", "true":
		in.Sampled, in.decided = true, true
	case "0", "false":
		in.decided = true
	}
	var c Context
	switch len(trace) {
	case 32:
		c.Long = true
		if _, err := hex.Decode(c.TraceID[:], []byte(trace)); err != nil {
			return in
		}
	case 16:
		if _, err := hex.Decode(c.TraceID[8:], []byte(trace)); err != nil {
			return in
		}
	default:
		return in
	}
	if len(span) != 16 {
		return in
	}
	if _, err := hex.Decode(c.SpanID[:], []byte(span)); err != nil || c.SpanID == ([8]byte{}) || c.TraceID == ([16]byte{}) {
		return in
	}
	if len(parent) == 16 {
		_, _ = hex.Decode(c.Parent[:], []byte(parent))
	}
	c.Sampled = in.Sampled
	in.Context, in.found = c, true
	return in
}

// toB3 writes the headers of the long form; a single header that came in would contradict them and goes.
func (c *Context) toB3(h http.Header) {
	delete(h, b3)
	h[b3TraceID] = []string{c.TraceHex()}
	h[b3SpanID] = []string{c.SpanHex()}
	if c.Parent != ([8]byte{}) {
		h[b3ParentID] = []string{hex.EncodeToString(c.Parent[:])}
	} else {
		delete(h, b3ParentID)
	}
	sampled := "0"
	if c.Sampled {
		sampled = "1"
	}
	h[b3Sampled] = []string{sampled}
}
