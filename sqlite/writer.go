package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"muster"
	"muster/maf"
	"muster/mef"
	"muster/tef"
)

// maxBatch is how many writes share a commit. More would make the first wait
// longer and gains nothing.
const maxBatch = 512

// A batch of fewer than company waits up to maxWait for more, since a commit costs as
// much as several writes do: of an enrolment over TLS that spares a twentieth. After
// a wait in vain the next batches go at once, first one, then twice as many each
// time up to maxHaste: who writes alone does not wait.
const (
	company  = 8
	maxWait  = 4 * time.Millisecond
	maxHaste = 64
)

// A task is one write. It checks before it writes: if it returns a sentinel of a
// contract it has changed nothing. It may run twice.
type task struct {
	run  func() error
	done chan<- error // with room for the result, for the caller may be gone
}

// A writer runs tasks one after the other on the only connection that writes, and
// commits those together that wait together.
type writer struct {
	conn *sql.Conn
	writeStatements
	before func() error // ahead of a batch, outside its transaction
	after  func() error // at the end of a batch, within its transaction

	queue   chan task
	stopped chan struct{}
	mu      sync.RWMutex
	closed  bool // guarded by mu
}

func (w *writer) start(ctx context.Context, queue int, after, before func() error) error {
	if err := w.writeStatements.prepare(ctx, w.conn); err != nil {
		return err
	}
	w.before, w.after = before, after
	w.queue, w.stopped = make(chan task, queue), make(chan struct{})
	go w.loop()
	return nil
}

// stop refuses new tasks, waits for those in the queue and reports whether it
// was the first call.
func (w *writer) stop() bool {
	w.mu.Lock()
	first := !w.closed
	w.closed = true
	if first {
		close(w.queue)
	}
	w.mu.Unlock()
	<-w.stopped
	return first
}

func (w *writer) isClosed() bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.closed
}

// do runs a task in the writer and waits for its result. A full queue is the
// error busy. The context ends the waiting alone.
func do[T any](ctx context.Context, w *writer, busy error, run func() (T, error)) (T, error) {
	var result, none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	done := make(chan error, 1)
	err := w.enqueue(task{func() (err error) { result, err = run(); return err }, done}, busy)
	if err != nil {
		return none, err
	}
	select {
	case err := <-done:
		if err != nil {
			return none, err
		}
		return result, nil
	case <-ctx.Done():
		return none, fmt.Errorf("the write goes on without its caller: %w", context.Cause(ctx))
	}
}

func (w *writer) enqueue(t task, busy error) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return ErrClosed
	}
	select {
	case w.queue <- t:
		return nil
	default:
		return busy
	}
}

func (w *writer) loop() {
	defer close(w.stopped)
	batch := make([]task, 0, maxBatch)
	var wait patience
	for first := range w.queue {
		batch = w.gather(append(batch, first))
		if wait.pays(len(batch)) {
			few := len(batch)
			batch = w.await(batch)
			wait.learn(len(batch) > few)
		}
		w.commit(batch)
		clear(batch)
		batch = batch[:0]
	}
}

// A patience decides whether a batch waits for company.
type patience struct {
	haste int // how many batches went at once after the last wait in vain; 0 if it was not in vain
	left  int // of these, how many still have to come
}

func (p *patience) pays(batch int) bool {
	if batch >= company || p.left > 0 {
		p.left = max(0, p.left-1)
		return false
	}
	return true
}

func (p *patience) learn(gained bool) {
	if gained {
		*p = patience{}
		return
	}
	p.haste = min(max(1, 2*p.haste), maxHaste)
	p.left = p.haste
}

// await adds to a batch what comes until it has company enough or has waited long
// enough.
func (w *writer) await(batch []task) []task {
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	for len(batch) < company {
		select {
		case t, ok := <-w.queue:
			if !ok {
				return batch
			}
			batch = append(batch, t)
		case <-timer.C:
			return batch
		}
	}
	return w.gather(batch)
}

// gather adds to a batch what waits already.
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

// commit runs a batch in one transaction and tells each task its result. If one
// fails for another reason than a sentinel, the batch is undone and each task
// gets a transaction of its own, so that the bad one fails alone.
func (w *writer) commit(batch []task) {
	results := make([]error, len(batch))
	alone := false
	err := w.before()
	if err == nil {
		err = w.transaction(func() error {
			for i, t := range batch {
				if results[i] = t.run(); !decided(results[i]) {
					alone = true
					return results[i]
				}
			}
			return w.after()
		})
	}
	if alone && len(batch) > 1 {
		for i := range batch {
			w.commit(batch[i : i+1])
		}
		return
	}
	for i, t := range batch {
		if err != nil {
			results[i] = muster.Refuse(muster.CodeStoreFailed, "write: %w", err)
		}
		t.done <- results[i]
	}
}

// transaction makes what run writes durable, or undoes it. Its statements have
// no context that ends, for an interrupted commit leaves no one the wiser.
func (w *writer) transaction(run func() error) error {
	ctx := context.Background()
	if _, err := w.begin.ExecContext(ctx); err != nil {
		return err
	}
	err := run()
	if err == nil {
		_, err = w.end.ExecContext(ctx)
	}
	if err != nil {
		// Some errors of SQLite, a full disk among them, have ended the
		// transaction already; the rollback then fails, which is as good.
		_, _ = w.rollback.ExecContext(ctx)
	}
	return err
}

// decided reports whether a result is the store's answer and not a failure.
func decided(err error) bool {
	if err == nil {
		return true
	}
	for _, sentinel := range []error{
		mef.ErrUnknown, mef.ErrConflict, mef.ErrTooMany,
		maf.ErrUnknown, maf.ErrConflict,
		tef.ErrUnknown, tef.ErrConflict, tef.ErrTooMany,
	} {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	return false
}

// changed returns the number of rows that a statement changed.
func changed(result sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}
