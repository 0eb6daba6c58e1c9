// Package tracing records what a process does as spans of OpenTelemetry and sends
// them to a collector: OTLP over HTTP, in its JSON form. It is the small part of
// that protocol which a program needs that only emits spans; a trace goes from
// process to process as the traceparent of W3C Trace Context.
package tracing

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strings"
	"time"
)

// A Kind says which side of a request a span is.
type Kind int

// The kinds, with the numbers of OTLP.
const (
	Internal Kind = 1
	Server   Kind = 2
	Client   Kind = 3
)

// A Tracer makes spans. Its methods may be called by many goroutines at once. A
// nil Tracer makes nil spans, on which nothing costs anything.
type Tracer struct{ exporter *exporter }

// A Span is something that a process did. It belongs to one goroutine. A nil Span
// records nothing.
type Span struct {
	tracer     *Tracer
	place      place
	parent     [8]byte // zero for the first of its trace
	name       string
	kind       Kind
	begun      time.Time
	attributes []attribute
}

type attribute struct{ key, value string }

// A place is where in a trace something happens.
type place struct {
	trace   [16]byte
	span    [8]byte
	sampled bool
}

type placeKey struct{}

// Start begins a span below that of ctx, or a trace of its own, and returns the
// context for what happens within. Of a trace that its beginner does not sample
// nothing is recorded.
func (t *Tracer) Start(ctx context.Context, name string, kind Kind) (context.Context, *Span) {
	if t == nil {
		return ctx, nil
	}
	above, below := ctx.Value(placeKey{}), place{sampled: true}
	parent, ok := above.(place)
	if ok {
		below.trace, below.sampled = parent.trace, parent.sampled
	} else {
		rand.Read(below.trace[:]) // never fails
	}
	rand.Read(below.span[:])
	ctx = context.WithValue(ctx, placeKey{}, below)
	if !below.sampled {
		return ctx, nil
	}
	return ctx, &Span{tracer: t, place: below, parent: parent.span, name: name, kind: kind, begun: time.Now()}
}

// Set gives the span an attribute. The value is never a key, nor an identifier of
// one, nor the name of a peer.
func (s *Span) Set(key, value string) {
	if s != nil {
		s.attributes = append(s.attributes, attribute{key, value})
	}
}

// End ends the span. A code other than "" says that it failed, and why.
func (s *Span) End(code string) {
	if s != nil {
		s.tracer.exporter.add(finished{s, time.Now(), code})
	}
}

// Traceparent returns where ctx is in a trace, as that header field, and "" if it
// is in none.
func Traceparent(ctx context.Context) string {
	at, ok := ctx.Value(placeKey{}).(place)
	if !ok {
		return ""
	}
	flags := "-00"
	if at.sampled {
		flags = "-01"
	}
	return "00-" + hex.EncodeToString(at.trace[:]) + "-" + hex.EncodeToString(at.span[:]) + flags
}

// Continue returns ctx in the trace that a traceparent names. One that is
// malformed is as none.
func Continue(ctx context.Context, traceparent string) context.Context {
	if at, ok := parse(traceparent); ok {
		return context.WithValue(ctx, placeKey{}, at)
	}
	return ctx
}

// parse reads a traceparent. Of a version after 00 the parts that follow are left
// alone, as the recommendation asks.
func parse(text string) (at place, ok bool) {
	parts := strings.Split(text, "-")
	if len(text) > 512 || len(parts) < 4 || len(parts[0]) != 2 || parts[0] == "ff" || parts[0] == "00" && len(parts) != 4 ||
		strings.ToLower(text) != text || len(parts[3]) != 2 {
		return place{}, false
	}
	var version, flags [1]byte
	for part, into := range map[string][]byte{parts[0]: version[:], parts[1]: at.trace[:], parts[2]: at.span[:], parts[3]: flags[:]} {
		if octets, err := hex.DecodeString(part); err != nil || len(octets) != len(into) {
			return place{}, false
		} else {
			copy(into, octets)
		}
	}
	if at.trace == ([16]byte{}) || at.span == ([8]byte{}) {
		return place{}, false
	}
	at.sampled = flags[0]&1 == 1
	return at, true
}
