package tef

import (
	"context"
	"time"

	"golang.org/x/sync/singleflight"

	"muster"
)

// A Retrieval asks a function for the keys that handshakes wait for, so that
// strangers who name identifiers of their invention cost little: handshakes that
// wait for one identifier share one question, each question has a deadline, and a
// refusal is remembered for a while. T is a kind of key. Timeout and RefusalMemory
// must not be changed once it is in use; it may be used by many goroutines.
type Retrieval[T any] struct {
	Timeout       time.Duration // for one question
	RefusalMemory time.Duration // for which a refusal answers in place of the function

	refused refusals
	flights singleflight.Group
}

// Do returns what ask returns, for all that wait for the identifier. The deadline
// of the context that ask gets is its own: the handshake that happens to be first
// does not end the question for the others. A muster.Refusal with CodeKeyUnknown
// is remembered.
func (r *Retrieval[T]) Do(ctx context.Context, id string, now time.Time, ask func(ctx context.Context) (T, error)) (T, error) {
	var none T
	if r.refused.has(id, now) {
		return none, muster.Refuse(muster.CodeKeyUnknown, "%s was refused a moment ago", id)
	}
	got, err, _ := r.flights.Do(id, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.Timeout)
		defer cancel()
		key, err := ask(ctx)
		if muster.CodeOf(err) == muster.CodeKeyUnknown {
			r.refused.add(id, now.Add(r.RefusalMemory), now)
		}
		return key, err
	})
	if err != nil {
		return none, err
	}
	return got.(T), nil
}

// Refused returns how many refusals are remembered, at most 4,096.
func (r *Retrieval[T]) Refused() int { return r.refused.len() }
