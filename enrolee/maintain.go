package enrolee

import (
	"context"
	"errors"
	"time"

	"muster/primitive"
)

// Back-off between attempts: full jitter, so that devices that lost power
// together do not return together.
const (
	backoffBase = 2 * time.Second
	backoffCap  = 15 * time.Minute
)

// maxAttachFailures is how often a new credential may fail to attach before the
// Enrolee gives it up and enrols again: the two ends may disagree about it. The
// next credentials are given more and more patience, up to maxAttachFailures times
// maxPatience: more likely the MAF cannot be reached, and a MEF takes a device
// that enrols too often for two.
const (
	maxAttachFailures = 3
	maxPatience       = 8
)

// maxAsked bounds what the other side may ask for: a slip of it must not put a
// device away for good.
const maxAsked = time.Hour

// hasty is a time until the next renewal that only a MAF with a wrong clock or
// without good will causes. The Enrolee then waits longer each time.
const hasty = 10 * time.Second

// unproved is how long Ensure keeps to a new credential that does not attach. By
// then the MAF may have retired its KeID, or the MEF's key have expired.
const unproved = time.Hour

// A RetryError is an error of a Dialer with the time for which the other side asked
// to be left alone. In an answer that is the RetryAfter of a primitive.Error.
type RetryError struct {
	After time.Duration
	Err   error
}

// Error returns the text of the wrapped error.
func (e *RetryError) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *RetryError) Unwrap() error { return e.Err }

// Ensure attaches with the credential at hand, and enrols before where there is
// none that is usable, or only one that failed to attach for an hour. The caller
// closes the Attachment.
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
	} else {
		attachment, err := e.Attach(ctx)
		if err == nil || e.config.Now().Sub(kept.Next.Enrolled).Abs() < unproved {
			return attachment, err
		}
	}
	if err := e.enrol(ctx); err != nil {
		return nil, err
	}
	return e.Attach(ctx)
}

// maxQuestions is how many times at most in the lifetime of a credential a MEF is
// asked for commands, whatever retryDuration it gives: each question is an
// enrolment, and one that enrols too often looks like two devices.
const maxQuestions = 24

// enrol is Enrol, or an Exchange if there is someone to perform the MEF's
// commands. What fails after the enrolment is told and does not undo it.
func (e *Enrolee) enrol(ctx context.Context) error {
	if e.config.Executor == nil {
		_, err := e.Enrol(ctx)
		return err
	}
	done, err := e.Exchange(ctx)
	if e.config.Exchanged != nil {
		e.config.Exchanged(done, err)
	}
	if done.Credential.KeID.IsZero() {
		return err
	}
	e.askAt = time.Time{}
	if done.RetryAfter > 0 {
		e.askAt = e.config.Now().Add(done.RetryAfter)
	}
	return nil
}

// An Event tells what Maintain did or will do.
type Event struct {
	Credential Credential    // the credential at hand, if Err is nil
	Err        error         // why the attempt failed
	Wait       time.Duration // until the next attempt
}

// Maintain keeps the Enrolee enrolled until ctx ends, whose error it returns: it
// enrols, attaches, enrols again when two thirds of the credential's lifetime
// have passed or the MEF wants to be asked for commands, and backs off where it fails. The old credential stays in use
// until the new one has proved itself. Each attempt is reported.
func (e *Enrolee) Maintain(ctx context.Context, report func(Event)) error {
	for failures, hurries := 0, 0; ; {
		credential, err := e.refresh(ctx, failures)
		event := Event{Credential: credential, Err: err}
		if err == nil {
			failures = 0
			event.Wait = e.untilRenewal(credential)
			if event.Wait >= hasty {
				hurries = 0
			} else {
				event.Wait = max(event.Wait, backoffCeiling(hurries))
				hurries++
			}
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
	if kept.Next == nil || givesUp(failures) {
		if err := e.enrol(ctx); err != nil {
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

// givesUp reports whether a new credential is given up after a number of failures:
// after the first 3, 6, 12 and 24, and after every 24 from there.
func givesUp(failures int) bool {
	if failures == 0 || failures%maxAttachFailures != 0 {
		return false
	}
	n := failures / maxAttachFailures
	return n%maxPatience == 0 || n < maxPatience && n&(n-1) == 0
}

// renewal is when to enrol again: after two thirds of the lifetime, or earlier
// where the MEF has asked to be asked for commands.
func (e *Enrolee) renewal(c Credential) time.Time {
	lifetime := c.Expires.Sub(c.Enrolled)
	due := c.Enrolled.Add(lifetime * 2 / 3)
	if e.askAt.IsZero() || !e.askAt.Before(due) {
		return due
	}
	if soonest := c.Enrolled.Add(lifetime / maxQuestions); e.askAt.Before(soonest) {
		return soonest
	}
	return e.askAt
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
	wait := time.Duration(e.config.Rand() * float64(backoffCeiling(failures)))
	var asked time.Duration
	if refusal, ok := errors.AsType[*primitive.Error](err); ok {
		asked = refusal.RetryAfter
	} else if retry, ok := errors.AsType[*RetryError](err); ok {
		asked = retry.After
	}
	return wait + min(asked, maxAsked)
}

func backoffCeiling(failures int) time.Duration {
	return min(backoffBase<<min(failures, 16), backoffCap)
}
