package revocation

import (
	"context"
	"errors"
	"time"
)

// The bounds of the pause between two rounds of Run.
const (
	minPause = time.Second
	maxPause = time.Minute
)

// Run keeps files and lists fresh, ahead of their nextUpdate, until ctx ends. A
// Checker works without it, but then the first Check after a list's end awaits
// the next list. OCSP answers are renewed when they are used.
func (c *Checker) Run(ctx context.Context) {
	for {
		if err := c.Refresh(ctx); err != nil && ctx.Err() == nil {
			c.config.Log.Warn("status information not refreshed", "error", err)
		}
		pause := min(max(c.untilDue(), minPause), maxPause)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// Refresh does one round of Run: it reads the files that have changed, and
// downloads what is due of the lists that the operator names and of those that
// have been used since the last round. It returns when that is done; the errors
// are joined, and what was known before remains.
func (c *Checker) Refresh(ctx context.Context) error {
	var errs []error
	for _, f := range c.files {
		c.mu.Lock()
		fresh := *f
		c.mu.Unlock()
		if err := fresh.read(c.config.MaxCRL); err != nil {
			errs = append(errs, err)
			continue
		}
		c.mu.Lock()
		*f = fresh
		c.mu.Unlock()
	}
	for _, s := range c.dueSources() {
		if err := c.fetch.do(ctx, "crl "+s.url, func(ctx context.Context) { c.download(ctx, s) }); err != nil {
			errs = append(errs, err)
			continue
		}
		c.mu.Lock()
		errs = append(errs, s.problem)
		c.mu.Unlock()
	}
	return errors.Join(errs...)
}

// dueSources returns the sources to download and begins a new round of use.
func (c *Checker) dueSources() []*source {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.config.Clock()
	var due []*source
	for _, s := range c.named {
		if !now.Before(s.due) {
			due = append(due, s)
		}
	}
	for _, s := range c.strange.all() {
		if s.used && !now.Before(s.due) {
			due = append(due, s)
			s.used = false
		}
	}
	return due
}

// untilDue is the time until a list is due.
func (c *Checker) untilDue() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	until := maxPause
	now := c.config.Clock()
	for _, s := range append(c.strange.all(), c.named...) {
		until = min(until, s.due.Sub(now))
	}
	return until
}
