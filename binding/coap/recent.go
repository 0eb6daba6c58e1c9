package coap

import "time"

// Times of RFC 7252 4.8.2.
const (
	exchangeLifetime = 247 * time.Second
	maxRecent        = 64 // messages remembered for each connection
)

// recent remembers the message identifiers that a peer has used and the answers
// to them, so that a repeated message is not executed twice (RFC 7252 4.5). It is
// bounded in number: a peer that sends more than maxRecent messages within the
// exchange lifetime can have only its latest ones recognised.
type recent struct {
	entries map[uint16]*handled
	order   []uint16 // from the oldest
}

// A handled message has an answer, or is still being worked on.
type handled struct {
	expires time.Time
	answer  []byte
}

func newRecent() *recent { return &recent{entries: make(map[uint16]*handled)} }

// find returns what is known of a message identifier, nil if nothing.
func (r *recent) find(id uint16, now time.Time) *handled {
	if h := r.entries[id]; h != nil && now.Before(h.expires) {
		return h
	}
	return nil
}

// add remembers that a message is being worked on.
func (r *recent) add(id uint16, now time.Time) *handled {
	if _, expired := r.entries[id]; expired {
		r.forget(id)
	}
	for len(r.order) > 0 && (len(r.order) >= maxRecent || !now.Before(r.entries[r.order[0]].expires)) {
		r.forget(r.order[0])
	}
	h := &handled{expires: now.Add(exchangeLifetime)}
	r.entries[id] = h
	r.order = append(r.order, id)
	return h
}

// forget drops an entry and the octets of its answer, which may be of a key.
func (r *recent) forget(id uint16) {
	clear(r.entries[id].answer)
	delete(r.entries, id)
	for i, other := range r.order {
		if other == id {
			r.order = append(r.order[:i], r.order[i+1:]...)
			return
		}
	}
}
