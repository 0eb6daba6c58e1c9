package main

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"muster"
)

// Bounds of what the handshakes from one IPv4 /24 or IPv6 /56 make the MAF fetch:
// the site with the most devices behind one address gets its keys in minutes after
// a blackout, and a stranger who makes up KeIDs costs the MEF little.
const (
	fetchInterval = 50 * time.Millisecond // between fetches, in the long run
	fetchBurst    = 200                   // at once
	maxSources    = 4096                  // networks that are remembered; the rest share one ration
)

// sourceKey is the context key under which an entrance tells from where a
// handshake comes, since the search for a key is not given an address.
type sourceKey struct{}

func withSource(ctx context.Context, from net.Addr) context.Context {
	return context.WithValue(ctx, sourceKey{}, networkOf(from))
}

// A ration is a rate for each source. The zero value is ready; it may be used by
// several goroutines.
type ration struct {
	mu    sync.Mutex
	spent map[netip.Prefix]time.Time // until when each has used its rate up; guarded by mu
}

// take counts a fetch of the source of ctx, or refuses it with muster.CodeBusy.
// This machine itself has no bound: it is a proxy that stands for many, or a test.
func (r *ration) take(ctx context.Context, now time.Time) error {
	source, ok := ctx.Value(sourceKey{}).(netip.Prefix)
	if !ok || source.Addr().IsLoopback() || source.Contains(netip.IPv6Loopback()) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spent == nil {
		r.spent = make(map[netip.Prefix]time.Time)
	}
	if _, known := r.spent[source]; !known && len(r.spent) >= maxSources && !r.forget(now) {
		source = netip.Prefix{}
	}
	until := r.spent[source]
	if until.Before(now) {
		until = now
	}
	if until.Sub(now) > (fetchBurst-1)*fetchInterval {
		return muster.Refuse(muster.CodeBusy, "%v has had %d fetches at once or more than one in %v", source, fetchBurst, fetchInterval)
	}
	r.spent[source] = until.Add(fetchInterval)
	return nil
}

// forget makes room by dropping the sources that have their whole burst again. The
// caller holds mu.
func (r *ration) forget(now time.Time) bool {
	for source, until := range r.spent {
		if !until.After(now) {
			delete(r.spent, source)
		}
	}
	return len(r.spent) < maxSources
}
