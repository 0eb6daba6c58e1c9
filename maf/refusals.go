package maf

import (
	"sync"
	"time"

	"muster"
)

// maxRefusals bounds the memory that strangers can fill with KeIDs of their
// invention: about 200 octets each.
const maxRefusals = 4096

// refusals remembers for a short time which KeIDs a MEF refused, so that a
// stranger who repeats one does not make the MAF repeat the question. The zero
// value is empty and ready for use by several goroutines.
type refusals struct {
	mu    sync.Mutex
	until map[muster.KeID]time.Time // guarded by mu
}

func (r *refusals) has(id muster.KeID, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return now.Before(r.until[id])
}

func (r *refusals) add(id muster.KeID, until, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = make(map[muster.KeID]time.Time)
	}
	if len(r.until) >= maxRefusals {
		for known, end := range r.until {
			if !now.Before(end) {
				delete(r.until, known)
			}
		}
	}
	if len(r.until) >= maxRefusals {
		clear(r.until) // forgetting costs a question to the MEF, remembering more costs memory
	}
	r.until[id] = until
}
