package tef

import (
	"sync"
	"time"
)

// maxRefusals bounds the memory that strangers can fill with identifiers of their
// invention: about 200 octets each.
const maxRefusals = 4096

// refusals remember for a short time which key identifiers a function refused to
// hand a key out for, so that a stranger who repeats one in handshakes does not
// make this side repeat the question. The zero value is empty and ready for use by
// several goroutines.
type refusals struct {
	mu    sync.Mutex
	until map[string]time.Time // guarded by mu
}

// has reports whether an identifier was refused, and for longer than now.
func (r *refusals) has(id string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return now.Before(r.until[id])
}

// add remembers an identifier until a time.
func (r *refusals) add(id string, until, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = make(map[string]time.Time)
	}
	if len(r.until) >= maxRefusals {
		for known, end := range r.until {
			if !now.Before(end) {
				delete(r.until, known)
			}
		}
	}
	if len(r.until) >= maxRefusals {
		clear(r.until) // forgetting costs a question, remembering more costs memory
	}
	r.until[id] = until
}

func (r *refusals) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.until)
}
