package postgres

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"muster"
)

// maxTries is how often a transaction is tried in all.
const maxTries = 10

const (
	firstPause = 10 * time.Millisecond
	maxPause   = 2 * time.Second
)

// pause waits before the next try, longer after each and never for the same time
// as another process. It reports false if the context ends first.
func pause(ctx context.Context, try int) bool {
	longest := min(firstPause<<try, maxPause)
	timer := time.NewTimer(longest/2 + rand.N(longest/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// transient reports whether a server's error is one that the same transaction
// may not meet again. A transaction that failed in this way did nothing, or its
// outcome is unknown.
func transient(err error) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return errors.Is(err, errLostRace)
	}
	switch refused.Code {
	case "40001", // serialization failure
		"40P01",                            // deadlock
		"40003",                            // the outcome is unknown
		"55P03",                            // a lock was not had in time
		"57014",                            // the statement was not done in time
		"57P01", "57P02", "57P03", "57P05", // the server stops, crashed, starts
		"25006": // this server is a standby
		return true
	case "23505": // a generation or position that another transaction took
		return strings.HasSuffix(refused.ConstraintName, "_order")
	}
	// No connection, or no resources for the moment.
	return strings.HasPrefix(refused.Code, "08") || strings.HasPrefix(refused.Code, "53")
}

// errLostRace: another transaction was first; with what it wrote, the same work
// comes to its own result.
var errLostRace = errors.New("another transaction was first")

// errAway and errOverloaded: what could not be done for now. Whether it was done is
// not always known, and does not matter: the call may be repeated.
var (
	errAway       = errors.New("the database did not answer")
	errOverloaded = errors.New("the database has too much to do")
)

// refuseForNow is the refusal of what many tries have not done: as busy if others
// were in the way, and else as failed.
func refuseForNow(err error) error {
	if overloaded(err) {
		return muster.Refuse(muster.CodeBusy, "%w: %w", errOverloaded, err)
	}
	return muster.Refuse(muster.CodeStoreFailed, "%w: %w", errAway, err)
}

// refusedForNow reports whether an error is one of refuseForNow, or of a Store that
// was closed meanwhile.
func refusedForNow(err error) bool {
	return errors.Is(err, errAway) || errors.Is(err, errOverloaded) || errors.Is(err, ErrClosed)
}

// overloaded reports whether an error comes of other work at the same time, and of
// nothing that somebody has to repair.
func overloaded(err error) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return errors.Is(err, errLostRace) || errors.Is(err, errWaited)
	}
	switch refused.Code {
	case "40001", "40P01", "55P03", "57014", "23505", // races, locks and time: see transient
		"53300": // too many connections
		return true
	}
	return false
}

// errWaited: a write was not begun, so much was ahead of it.
var errWaited = errors.New("the write has waited for too long and was not done")

// refuseFailed gives the error of a server that has answered, and would answer the
// same again, its code.
func refuseFailed(err error) error {
	if _, ok := errors.AsType[*pgconn.PgError](err); ok && muster.CodeOf(err) == "" {
		return muster.Refuse(muster.CodeStoreFailed, "%w", err)
	}
	return err
}
