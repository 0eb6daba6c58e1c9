package main

import (
	"context"
	"maps"
	"sync"
	"time"

	"muster"
	"muster/audit"
	"muster/console"
	"muster/mef"
)

const (
	keptEvents  = 1024      // that a watcher can ask for again
	keptMinutes = 24 * 60   // that are counted
	quarter     = 15        // minutes
	hour        = 60        // minutes
	refusedKind = "refused" // and a slash and the code, among the totals
)

// happenings are the acts of a function since its start, for operators who watch:
// the last of them, and counts. A nil pointer has none.
type happenings struct {
	mu      sync.Mutex
	events  []console.Event // guarded by mu, as all below; the oldest first
	last    uint64          // the number of the newest event
	more    chan struct{}   // closed with the next event
	totals  map[string]uint64
	minutes [keptMinutes]console.Bucket // each at its minute modulo their number
}

func newHappenings() *happenings {
	return &happenings{more: make(chan struct{}), totals: map[string]uint64{}}
}

// count counts an act, or a refusal with its code.
func (h *happenings) count(kind audit.Kind, code muster.Code, now time.Time) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.totals[string(kind)]++
	if kind == audit.KindRefused && code != "" {
		h.totals[refusedKind+"/"+string(code)]++
	}
	bucket := h.minute(now)
	switch kind {
	case audit.KindEnrolled:
		bucket.Enrolled++
	case audit.KindAttached:
		bucket.Attached++
	case audit.KindFetched:
		bucket.Fetched++
	case audit.KindRefused:
		bucket.Refused++
	}
}

// minute returns the bucket of a time, empty if it was that of another one.
func (h *happenings) minute(now time.Time) *console.Bucket {
	start := now.UTC().Truncate(time.Minute)
	bucket := &h.minutes[start.Unix()/60%keptMinutes]
	if !bucket.Start.Equal(start) {
		*bucket = console.Bucket{Start: start}
	}
	return bucket
}

// tell lets watchers see an act.
func (h *happenings) tell(e audit.Entry, now time.Time) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	if len(h.events) >= 2*keptEvents { // so that moving them costs little
		h.events = append(h.events[:0], h.events[len(h.events)-keptEvents:]...)
	}
	h.events = append(h.events, console.Event{
		ID: h.last, Time: now.UTC().Truncate(time.Millisecond), Kind: string(e.Kind), Who: e.Who, What: e.What, Rule: e.Rule, Enrolee: e.Enrolee, KeID: e.KeID, Code: e.Code,
	})
	close(h.more)
	h.more = make(chan struct{})
}

// Watch implements console.EventSource.
func (h *happenings) Watch(ctx context.Context, after uint64, tell func(console.Event) error) error {
	h.mu.Lock()
	if after == 0 || after > h.last { // the function was started anew
		after = h.last
	}
	h.mu.Unlock()
	for {
		h.mu.Lock()
		oldest := h.last - uint64(len(h.events)) // the number before that of the oldest kept
		begin := max(after, oldest) - oldest
		events, more := append([]console.Event{}, h.events[begin:]...), h.more
		h.mu.Unlock()
		for _, e := range events {
			if err := tell(e); err != nil {
				return err
			}
			after = e.ID
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// A watchedStore counts the keys that MAFs fetch, by whatever request.
type watchedStore struct {
	database
	live *happenings
}

// FetchEnrolment implements mef.Store.
func (s watchedStore) FetchEnrolment(ctx context.Context, f mef.Fetch) (mef.Enrolment, error) {
	e, err := s.database.FetchEnrolment(ctx, f)
	if err == nil {
		s.live.count(audit.KindFetched, "", f.Now)
	}
	return e, err
}

// counted returns the totals, the last hour by minutes, and the last day by
// quarters of an hour, the oldest first.
func (h *happenings) counted(now time.Time) (totals map[string]uint64, minutes, quarters []console.Bucket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	newest := now.UTC().Truncate(time.Minute)
	at := func(start time.Time) console.Bucket {
		if b := h.minutes[start.Unix()/60%keptMinutes]; b.Start.Equal(start) {
			return b
		}
		return console.Bucket{Start: start}
	}
	for ago := hour - 1; ago >= 0; ago-- {
		minutes = append(minutes, at(newest.Add(-time.Duration(ago)*time.Minute)))
	}
	for ago := keptMinutes - quarter; ago >= 0; ago -= quarter {
		sum := console.Bucket{Start: newest.Add(-time.Duration(ago+quarter-1) * time.Minute)}
		for minute := range quarter {
			b := at(sum.Start.Add(time.Duration(minute) * time.Minute))
			sum.Enrolled += b.Enrolled
			sum.Attached += b.Attached
			sum.Fetched += b.Fetched
			sum.Refused += b.Refused
		}
		quarters = append(quarters, sum)
	}
	return maps.Clone(h.totals), minutes, quarters
}
