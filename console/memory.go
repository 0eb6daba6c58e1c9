package console

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"muster"
)

// The bounds of what is remembered for Idempotency-Key.
const (
	maxRemembered  = 1024 // of one caller; the oldest give way
	memoryTime     = 24 * time.Hour
	maxIdempotency = 64 // octets of a key
)

// A memory has what was answered to requests with an Idempotency-Key, so that one
// that is sent again, its answer being lost, has no further consequence. It does not
// outlive the process.
type memory struct {
	mu   sync.Mutex
	kept map[remembered]*recollection // guarded by mu
}

// A remembered request is known by who sent it, and their key. Whoever's role or
// scope has changed is another.
type remembered struct {
	who   muster.CertName
	role  Role
	scope Scope
	key   string
}

type recollection struct {
	until  time.Time
	digest muster.Digest // of the request
	done   chan struct{} // closed with the answer
	answer reply
	err    error
}

// once performs a request, or returns what was answered to the same one before. What
// failed is forgotten.
func (s *Server) once(r *http.Request, who caller, key string, at route) (reply, error) {
	if len(key) > maxIdempotency {
		return reply{}, muster.Refuse(muster.CodeRequestMalformed, "Idempotency-Key has more than %d octets", maxIdempotency)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return reply{}, muster.Refuse(muster.CodeRequestMalformed, "the body: %w", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	digest := muster.DigestOf(append([]byte(r.URL.RequestURI()+"\n"+r.Header.Get("Content-Type")+"\n"), body...))
	id := remembered{who.Name, who.Role, who.Scope, key}
	entry, first, err := s.memory.enter(id, digest, s.config.Now())
	if err != nil {
		return reply{}, err
	}
	if !first {
		select {
		case <-entry.done:
			return entry.answer, entry.err
		case <-r.Context().Done():
			return reply{}, r.Context().Err()
		}
	}
	entry.err = errors.New("the request did not end") // but for a panic
	defer func() {
		if entry.err != nil {
			s.memory.forget(id, entry)
		}
		close(entry.done)
	}()
	entry.answer, entry.err = s.perform(r, who, at)
	return entry.answer, entry.err
}

// enter returns the recollection of a request, and whether it is new.
func (m *memory) enter(id remembered, digest muster.Digest, now time.Time) (entry *recollection, first bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if entry := m.kept[id]; entry != nil && now.Before(entry.until) {
		if entry.digest != digest {
			return nil, false, muster.Refuse(muster.CodeResourceConflict, "another request had the same Idempotency-Key")
		}
		return entry, false, nil
	}
	m.makeRoom(id.who, now)
	if m.kept == nil {
		m.kept = map[remembered]*recollection{}
	}
	entry = &recollection{until: now.Add(memoryTime), digest: digest, done: make(chan struct{})}
	m.kept[id] = entry
	return entry, true, nil
}

// makeRoom forgets what is a day old, and the oldest request of a caller who has too
// many. The caller holds mu.
func (m *memory) makeRoom(who muster.CertName, now time.Time) {
	var oldest remembered
	own := 0
	for id, entry := range m.kept {
		if !now.Before(entry.until) {
			delete(m.kept, id)
		} else if id.who == who {
			if own++; own == 1 || entry.until.Before(m.kept[oldest].until) {
				oldest = id
			}
		}
	}
	if own >= maxRemembered {
		delete(m.kept, oldest)
	}
}

// forget forgets a request, unless its place was given to another.
func (m *memory) forget(id remembered, entry *recollection) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept[id] == entry {
		delete(m.kept, id)
	}
}
