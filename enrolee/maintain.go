package enrolee

import (
	"context"
	"errors"
	"time"
)

// Back-off between attempts: full jitter, so that devices that lost power
// together do not return together.
const (
	backoffBase = 2 * time.Second
	backoffCap  = 15 * time.Minute
)

// maxAttachFailures is how often a new credential may fail to attach before the
// Enrolee gives it up and enrols again: the two ends may disagree about it.
const maxAttachFailures = 3

// A RetryError is an error with the time for which the other side asked to be
// left alone.
type RetryError struct {
	After time.Duration
	Err   error
}

// Error returns the text of the wrapped error.
func (e *RetryError) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *RetryError) Unwrap() error { return e.Err }

// Ensure attaches with the credential at hand, and enrols before where there is
// none that is usable. The caller closes the Attachment.
func (e *Enrolee) Ensure(ctx context.Context) (*Attachment, error) {
	kept, err := e.keyring.Load(ctx)
	if err != nil {
		return nil, err
	}
	if kept.Next == nil {
		attachment, err := e.reattach(ctx, kept)
		if !errors.Is(err, ErrNotEnrolled) {
			return attachment, err
		}
		if _, err := e.Enrol(ctx); err != nil {
			return nil, err
		}
	}
	return e.Attach(ctx)
}

// An Event tells what Maintain did or will do.
type Event struct {
	Credential Credential    // the credential at hand, if Err is nil
	Err        error         // why the attempt failed
	Wait       time.Duration // until the next attempt
}

// Maintain keeps the Enrolee enrolled until ctx ends, whose error it returns: it
// enrols, attaches, enrols again when two thirds of the credential's lifetime
// have passed, and backs off where it fails. The old credential stays in use
// until the new one has proved itself. Each attempt is reported.
func (e *Enrolee) Maintain(ctx context.Context, report func(Event)) error {
	for failures := 0; ; {
		credential, err := e.refresh(ctx, failures)
		event := Event{Credential: credential, Err: err}
		if err == nil {
			failures = 0
			event.Wait = e.untilRenewal(credential)
		} else {
			event.Wait = e.backoff(failures, err)
			failures++
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		report(event)
		if err := e.config.Sleep(ctx, event.Wait); err != nil {
			return err
		}
	}
}

// refresh makes one attempt to have a credential that is proved and young.
func (e *Enrolee) refresh(ctx context.Context, failures int) (Credential, error) {
	kept, err := e.keyring.Load(ctx)
	if err != nil {
		return Credential{}, err
	}
	if kept.Next == nil && kept.Current != nil && !e.dueForRenewal(*kept.Current) {
		return *kept.Current, nil
	}
	if kept.Next == nil || failures > 0 && failures%maxAttachFailures == 0 {
		if _, err := e.Enrol(ctx); err != nil {
			return Credential{}, err
		}
		if kept, err = e.keyring.Load(ctx); err != nil {
			return Credential{}, err
		}
	}
	attachment, err := e.prove(ctx, kept)
	if err != nil {
		return Credential{}, err
	}
	return attachment.Credential, attachment.Close()
}

func (e *Enrolee) renewal(c Credential) time.Time {
	return c.Enrolled.Add(c.Expires.Sub(c.Enrolled) * 2 / 3)
}

func (e *Enrolee) dueForRenewal(c Credential) bool { return !e.config.Now().Before(e.renewal(c)) }

// untilRenewal adds up to a tenth of the lifetime, so that devices enrolled
// together renew apart.
func (e *Enrolee) untilRenewal(c Credential) time.Duration {
	spread := time.Duration(e.config.Rand() * float64(c.Expires.Sub(c.Enrolled)) / 10)
	return max(e.renewal(c).Sub(e.config.Now())+spread, 0)
}

// backoff returns the time until the next attempt after a number of failures and
// one more.
func (e *Enrolee) backoff(failures int, err error) time.Duration {
	ceiling := min(backoffBase<<min(failures, 16), backoffCap)
	wait := time.Duration(e.config.Rand() * float64(ceiling))
	if retry, ok := errors.AsType[*RetryError](err); ok {
		wait += retry.After
	}
	return wait
}
