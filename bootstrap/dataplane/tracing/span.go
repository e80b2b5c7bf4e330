// Package tracing makes spans, carries their contexts in W3C and B3 headers as the tracer in force does, and reports them
// by OTLP and as Zipkin's JSON.
//
// It knows spans, headers and the two protocols. It does not know when a request is traced or what its tags are; package
// export knows how to send.
package tracing

import (
	"encoding/binary"
	"math/rand/v2"
	"net/http"
	"time"
)

// Kind says on which side of a call a span is.
type Kind int

// Kinds.
const (
	Server Kind = iota
	Client
)

// Tag is one attribute.
type Tag struct{ Key, Value string }

// Event is something that happened at a point of a span.
type Event struct {
	At   time.Time
	Name string
}

// Span is one piece of work. A span that is not sampled carries its context and takes no tags. It is not safe for
// concurrent use.
type Span struct {
	Context
	Name       string
	Kind       Kind
	Start, End time.Time
	Tags       []Tag
	Events     []Event
	shared     bool // the caller's span has the same id
	tracer     *Tracer
}

// Set adds a tag.
func (s *Span) Set(key, value string) {
	if s.Sampled {
		s.Tags = append(s.Tags, Tag{key, value})
	}
}

// Log adds an event.
func (s *Span) Log(at time.Time, name string) {
	if s.Sampled && !at.IsZero() {
		s.Events = append(s.Events, Event{at, name})
	}
}

// Child begins a span below s.
func (s *Span) Child(kind Kind, name string, start time.Time) *Span {
	c := &Span{Context: s.Context, Name: name, Kind: kind, Start: start, tracer: s.tracer}
	c.Parent, c.SpanID = s.SpanID, newSpanID()
	return c
}

// Inject writes the context of s for whom the request goes to.
func (s *Span) Inject(h http.Header) { s.tracer.inject(&s.Context, h) }

// Finish ends the span and, where it is sampled, reports it. It must not be used afterwards.
func (s *Span) Finish(end time.Time) {
	s.End = end
	if s.Sampled {
		s.tracer.report(s)
	}
}

// Tracer begins spans.
type Tracer struct {
	extract func(http.Header) incoming
	inject  func(*Context, http.Header)
	report  func(*Span)
	sampler sampler // nil to follow the caller, else the decision
	long    bool    // new traces have ids of 128 bits
	rootID  bool    // a root span's id is part of its trace's
	shared  bool    // a server's span has its caller's id
}

// Start begins the span of a request. traced is the decision for requests whose caller has made none.
func (t *Tracer) Start(h http.Header, kind Kind, name string, start time.Time, traced bool) *Span {
	in := t.extract(h)
	s := &Span{Name: name, Kind: kind, Start: start, tracer: t}
	switch {
	case in.found && t.shared && kind == Server:
		s.Context, s.shared = in.Context, true
	case in.found:
		s.Context = in.Context
		s.Parent, s.SpanID = in.SpanID, newSpanID()
	default:
		s.TraceID, s.Long = newTraceID(t.long), t.long
		s.SpanID = newSpanID()
		if t.rootID {
			copy(s.SpanID[:], s.TraceID[8:])
		}
	}
	switch {
	case t.sampler != nil:
		s.Sampled = traced && t.sampler(in, s.TraceID)
	case in.decided:
		s.Sampled = in.Sampled
	default:
		s.Sampled = traced
	}
	return s
}

func newSpanID() (id [8]byte) {
	for id == ([8]byte{}) {
		binary.BigEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}

func newTraceID(long bool) (id [16]byte) {
	low := newSpanID()
	copy(id[8:], low[:])
	if long {
		high := newSpanID()
		copy(id[:], high[:])
	}
	return id
}
