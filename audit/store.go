package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"muster"
)

// A Store keeps the lines of logs, each log under a name, and has no way to change
// one, nor to remove one but together with all before it. Its methods may be called by
// many goroutines at once.
type Store interface {
	// AppendAudit adds lines, the first of which has the number first. They are
	// durable together when it returns nil. Of a log that has lines, the first is at
	// most one beyond its last; lines that are there already have to be the same.
	AppendAudit(ctx context.Context, log string, first uint64, lines []string) error
	// AuditAnchor returns the number and hash of the last line that was pruned from a
	// log, zero without one.
	AuditAnchor(ctx context.Context, log string) (seq uint64, hash muster.Digest, err error)
	// PruneAudit removes the lines up to a number, which has to be there, and makes its
	// hash the anchor of the log. What is interrupted is completed by the same call.
	PruneAudit(ctx context.Context, log string, seq uint64, hash muster.Digest) error
	// AuditEnd returns the number of a log's last line, pruned or not, 0 if it had none.
	AuditEnd(ctx context.Context, log string) (uint64, error)
	// AuditLines returns at most limit lines of a log after a number, in order.
	AuditLines(ctx context.Context, log string, after uint64, limit int) ([]string, error)
}

const (
	storeTimeout = 5 * time.Second // of one write to a Store
	maxBehind    = 4096            // lines that wait while a Store fails
	pageSize     = 512             // lines that are read at once
)

// A storeSink copies a log to a Store. What a Store could not take, it is given
// again ahead of the next line.
type storeSink struct {
	store  Store
	log    string
	behind []Line
	lost   error // why the Store lacks lines that are no longer in behind
}

// NewStoreSink returns a Follower that copies a log to a store under a name, which
// no other log has.
func NewStoreSink(store Store, log string) Follower { return &storeSink{store: store, log: log} }

// Last implements Follower.
func (s *storeSink) Last() (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	return s.store.AuditEnd(ctx, s.log)
}

// Write implements Sink.
func (s *storeSink) Write(lines []Line) error {
	if s.lost != nil {
		return s.lost
	}
	s.behind = append(s.behind, lines...)
	texts := make([]string, len(s.behind))
	for i, line := range s.behind {
		texts[i] = string(line.Text)
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	err := s.store.AppendAudit(ctx, s.log, s.behind[0].Seq, texts)
	if err == nil {
		s.behind = s.behind[:0]
		return nil
	}
	err = fmt.Errorf("store: %w", err)
	if len(s.behind) > maxBehind {
		s.behind, s.lost = nil, fmt.Errorf("%w; %d entries are behind, and the next start catches up", err, maxBehind)
	}
	return err
}

// Close implements Sink. The store is its owner's.
func (s *storeSink) Close() error { return nil }

// A backlog is what Followers lack of a log that is being opened.
type backlog struct {
	followers []Follower
	last      []uint64
	lines     []Line
	err       error
}

func (l *Log) behind() (*backlog, error) {
	b := &backlog{}
	for _, s := range l.config.Sinks {
		if f, ok := s.(Follower); ok {
			last, err := f.Last()
			if err != nil {
				return nil, err
			}
			b.followers, b.last = append(b.followers, f), append(b.last, last)
		}
	}
	return b, nil
}

// take is what verifyFile visits.
func (b *backlog) take(e Entry, _ Head) {
	if len(b.followers) == 0 {
		return
	}
	text, err := json.Marshal(e) // the line: its form is canonical
	if err != nil {
		b.err = err
		return
	}
	if b.lines = append(b.lines, Line{e, text}); len(b.lines) >= pageSize && b.err == nil {
		b.err = b.catchUp()
	}
}

// catchUp gives each follower those of the lines that come after its last.
func (b *backlog) catchUp() error {
	if b.err != nil {
		return b.err
	}
	for i, f := range b.followers {
		lacking := b.lines
		for len(lacking) > 0 && lacking[0].Seq <= b.last[i] {
			lacking = lacking[1:]
		}
		if len(lacking) == 0 {
			continue
		}
		if err := f.Write(lacking); err != nil {
			return err
		}
	}
	b.lines = b.lines[:0]
	return nil
}

// Anchor returns the head after which the log begins that a Store has under a name:
// the zero Head, or the last entry that was pruned.
func Anchor(ctx context.Context, store Store, log string) (Head, error) {
	seq, hash, err := store.AuditAnchor(ctx, log)
	return Head{seq, hash}, err
}

// Prune verifies the log that a Store has under a name, as VerifyStore does from its
// anchor on, and then removes the entries that are older than before, up to the first
// that is not. It returns the anchor that was and the one that is, after which the log
// begins now. Nothing is removed from a log that is not what was written.
func Prune(ctx context.Context, store Store, log string, before time.Time, pinned Head) (was, is Head, err error) {
	if was, err = Anchor(ctx, store, log); err != nil {
		return was, was, err
	}
	is = was
	newer := false
	_, err = VerifyStore(ctx, store, log, was, pinned, func(e Entry) {
		if newer = newer || !e.Time.Before(before); !newer && err == nil {
			is, err = ParseHead(fmt.Sprintf("%d:%s", e.Seq, e.Hash))
		}
	})
	if err != nil || is == (Head{}) {
		return was, was, err
	}
	return was, is, store.PruneAudit(ctx, log, is.Seq, is.Hash) // also to complete what was interrupted
}

// VerifyStore is Verify for a log that a Store has under a name.
func VerifyStore(ctx context.Context, store Store, log string, from, pinned Head, visit func(Entry)) (Head, error) {
	chain := Begin(from, pinned)
	for {
		lines, err := store.AuditLines(ctx, log, chain.Head.Seq, pageSize)
		if err != nil {
			return chain.Head, err
		}
		for _, line := range lines {
			e, err := chain.Follow([]byte(line))
			if err != nil {
				return chain.Head, err
			}
			if visit != nil {
				visit(e)
			}
		}
		if len(lines) == 0 {
			return chain.Head, chain.End()
		}
	}
}
