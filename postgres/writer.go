package postgres

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"muster"
	"muster/maf"
	"muster/mef"
	"muster/tef"
)

// maxBatch is how many writes share a transaction. More would make the first wait
// longer and gains nothing.
const maxBatch = 512

// A kind is one sort of write. Writes of a kind that wait together are run
// together, in one transaction that is sent in one go.
type kind[T, R any] struct {
	busy error // the contract's sentinel for a full queue
	// claims names what two writes of one transaction must not both touch. nil
	// means that each has a transaction of its own.
	claims func(T) []string
	// run does the work of all items and sets their outcomes. An error means that
	// nothing is known of any of them. It runs again after such an error.
	run func(ctx context.Context, conn *pgxpool.Conn, items []T, outcomes []outcome[R]) error
}

// An outcome is what became of one item.
type outcome[R any] struct {
	value R
	err   error // errLostRace: to be run again
}

// A task is one write that waits for its turn, of whatever kind.
type task interface {
	sort() any
	claims() []string
	run(ctx context.Context, conn *pgxpool.Conn, batch []task) error
	lostRace() bool
	since() time.Time
	settle(err error)
	busy() error
}

type write[T, R any] struct {
	kind    *kind[T, R]
	item    T
	outcome outcome[R]
	queued  time.Time
	done    chan outcome[R] // with room for the outcome, for the caller may be gone
}

func (w *write[T, R]) sort() any        { return w.kind }
func (w *write[T, R]) since() time.Time { return w.queued }
func (w *write[T, R]) lostRace() bool   { return errors.Is(w.outcome.err, errLostRace) }
func (w *write[T, R]) busy() error      { return w.kind.busy }

func (w *write[T, R]) claims() []string {
	if w.kind.claims == nil {
		return []string{""}
	}
	return w.kind.claims(w.item)
}

// run runs a batch of the same kind as w, which is one of it.
func (w *write[T, R]) run(ctx context.Context, conn *pgxpool.Conn, batch []task) error {
	items, outcomes := make([]T, len(batch)), make([]outcome[R], len(batch))
	for i, t := range batch {
		items[i] = t.(*write[T, R]).item
	}
	if err := w.kind.run(ctx, conn, items, outcomes); err != nil {
		return err
	}
	for i, t := range batch {
		t.(*write[T, R]).outcome = outcomes[i]
	}
	return nil
}

// settle tells the caller what became of the write: err, or its own outcome.
func (w *write[T, R]) settle(err error) {
	if err != nil {
		w.outcome = outcome[R]{err: err}
	}
	w.done <- w.outcome
}

// submit queues a write with the writer that route leads to, and waits for its
// outcome. The context ends the waiting alone.
func submit[T, R any](ctx context.Context, s *Store, k *kind[T, R], route string, item T) (R, error) {
	var none R
	if err := ctx.Err(); err != nil {
		return none, err
	}
	w := &write[T, R]{kind: k, item: item, queued: time.Now(), done: make(chan outcome[R], 1)}
	if err := s.write[maphash.String(s.seed, route)%writers].enqueue(w); err != nil {
		return none, err
	}
	select {
	case o := <-w.done:
		if o.err != nil {
			return none, refuseFailed(o.err)
		}
		return o.value, nil
	case <-ctx.Done():
		return none, fmt.Errorf("the write goes on without its caller: %w", context.Cause(ctx))
	}
}

// alone runs a write that shares its transaction with no other. The writes of a
// route follow each other, so that they meet only those of other Stores.
func alone[R any](ctx context.Context, s *Store, busy error, route string, level pgx.TxIsoLevel, run func(context.Context, pgx.Tx) (R, error)) (R, error) {
	return aloneOn(ctx, s, busy, route, func(ctx context.Context, conn *pgxpool.Conn) (R, error) {
		return within(ctx, conn, level, run)
	})
}

// aloneOn runs a write that makes its transaction itself.
func aloneOn[R any](ctx context.Context, s *Store, busy error, route string, run func(context.Context, *pgxpool.Conn) (R, error)) (R, error) {
	k := &kind[struct{}, R]{busy: busy, run: func(ctx context.Context, conn *pgxpool.Conn, _ []struct{}, outcomes []outcome[R]) (err error) {
		outcomes[0].value, err = run(ctx, conn)
		return err
	}}
	return submit(ctx, s, k, route, struct{}{})
}

// within runs statements in a transaction, which an error undoes.
func within[R any](ctx context.Context, conn *pgxpool.Conn, level pgx.TxIsoLevel, run func(context.Context, pgx.Tx) (R, error)) (result R, err error) {
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: level}, func(tx pgx.Tx) error {
		result, err = run(ctx, tx)
		return err
	})
	return result, err
}

// read runs look-ups on a connection, again if it is lost.
func (s *Store) read(ctx context.Context, run func(context.Context, *pgxpool.Conn) error) error {
	if s.closed.Load() {
		return ErrClosed
	}
	return refuseFailed(s.attempt(ctx, s.readPool, run))
}

// kinds are the writes that share transactions.
type kinds struct {
	createEnrolment    *kind[newEnrolment, mef.Enrolment]
	fetchEnrolment     *kind[markedFetch, mef.Enrolment]
	eraseEnrolment     *kind[share, struct{}]
	putCredential      *kind[maf.Credential, struct{}]
	activate           *kind[activation, struct{}]
	limitKeID          *kind[keIDLimit, struct{}]
	putRegistration    *kind[tef.ClientRegistration, tef.ClientRegistration]
	deleteRegistration *kind[registrationName, struct{}]
}

func (s *Store) newKinds() kinds {
	return kinds{
		&kind[newEnrolment, mef.Enrolment]{mef.ErrBusy, claimEnrolment, s.createEnrolments},
		&kind[markedFetch, mef.Enrolment]{mef.ErrBusy, claimFetch, s.fetchEnrolments},
		&kind[share, struct{}]{mef.ErrBusy, claimShare, s.eraseEnrolments},
		&kind[maf.Credential, struct{}]{maf.ErrBusy, claimCredential, s.putCredentials},
		&kind[activation, struct{}]{maf.ErrBusy, claimActivation, s.activateKmIDs},
		&kind[keIDLimit, struct{}]{maf.ErrBusy, claimLimit, s.limitKeIDs},
		&kind[tef.ClientRegistration, tef.ClientRegistration]{tef.ErrBusy, claimRegistration, s.putRegistrations},
		&kind[registrationName, struct{}]{tef.ErrBusy, claimName, s.deleteRegistrations},
	}
}

// A writer runs the tasks of its queue on one connection at a time.
type writer struct {
	store   *Store
	queue   chan task
	stopped chan struct{}
	mu      sync.RWMutex
	closed  bool // guarded by mu
}

func startWriter(s *Store, queue int) *writer {
	w := &writer{store: s, queue: make(chan task, queue), stopped: make(chan struct{})}
	go w.loop()
	return w
}

// stop refuses new tasks and waits for those in the queue.
func (w *writer) stop() {
	w.mu.Lock()
	w.closed = true
	close(w.queue)
	w.mu.Unlock()
	<-w.stopped
}

func (w *writer) enqueue(t task) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return ErrClosed
	}
	select {
	case w.queue <- t:
		return nil
	default:
		return t.busy()
	}
}

func (w *writer) loop() {
	defer close(w.stopped)
	for first := range w.queue {
		waiting := w.gather([]task{first})
		for try := 1; len(waiting) > 0; try++ {
			waiting = w.round(waiting, try)
		}
	}
}

// gather adds what waits already.
func (w *writer) gather(batch []task) []task {
	for len(batch) < maxBatch {
		select {
		case t, ok := <-w.queue:
			if !ok {
				return batch
			}
			batch = append(batch, t)
		default:
			return batch
		}
	}
	return batch
}

// refuseLate is the refusal of a write that has waited for too long.
func (s *Store) refuseLate() error {
	if s.away.Load() {
		return muster.Refuse(muster.CodeStoreFailed, "%w: %w", errAway, errWaited)
	}
	return refuseForNow(errWaited)
}

// round runs each task that neither shares a claim with an earlier one nor has
// waited for too long, together with those of its kind. It returns the others and
// those that have lost a race.
func (w *writer) round(waiting []task, try int) (left []task) {
	var order []any
	batches := make(map[any][]task)
	taken := make(map[any]map[string]bool)
	for _, t := range waiting {
		if time.Since(t.since()) > w.store.patience {
			t.settle(w.store.refuseLate())
			continue
		}
		k := t.sort()
		if batches[k] == nil {
			order, taken[k] = append(order, k), make(map[string]bool)
		}
		if !claim(taken[k], t.claims()) {
			left = append(left, t)
			continue
		}
		batches[k] = append(batches[k], t)
	}
	lost := false
	for _, k := range order {
		w.commit(batches[k])
		for _, t := range batches[k] {
			if t.lostRace() {
				left, lost = append(left, t), true
			}
		}
	}
	if lost {
		pause(context.Background(), min(try, 3))
	}
	return left
}

func claim(taken map[string]bool, claims []string) bool {
	for _, c := range claims {
		if taken[c] {
			return false
		}
	}
	for _, c := range claims {
		taken[c] = true
	}
	return true
}

// commit runs tasks of one kind in one transaction, and settles those that did
// not lose a race. If one of them fails for a reason of its own, the transaction
// was undone; halving the batch finds the bad one, which fails alone.
func (w *writer) commit(batch []task) {
	err := w.store.attempt(context.Background(), w.store.writePool, func(ctx context.Context, conn *pgxpool.Conn) error {
		return batch[0].run(ctx, conn, batch)
	})
	if err != nil && len(batch) > 1 && !refusedForNow(err) {
		w.commit(batch[:len(batch)/2])
		w.commit(batch[len(batch)/2:])
		return
	}
	for _, t := range batch {
		if err != nil || !t.lostRace() {
			t.settle(err)
		}
	}
}

// A transaction is a list of statements that are sent in one go, between BEGIN
// and COMMIT. What the statements return is read as they are answered; an answer
// counts only when send has returned nil.
type transaction struct{ batch pgx.Batch }

func (t *transaction) queue(statement string, args ...any) *pgx.QueuedQuery {
	if t.batch.Len() == 0 {
		t.batch.Queue("BEGIN")
	}
	return t.batch.Queue(statement, args...)
}

func (t *transaction) empty() bool { return t.batch.Len() == 0 }

func (t *transaction) send(ctx context.Context, conn *pgxpool.Conn) error {
	if t.empty() {
		return nil
	}
	t.batch.Queue("COMMIT")
	return conn.SendBatch(ctx, &t.batch).Close()
}
