// Package entity is the side of a security association that gets its key from a
// MAF (TS-0003 8.8): Entity B, which is named a key by whoever opens a session with
// it, and retrieves that key as a Target MAF Client within the handshake. It knows
// no socket and no clock: identities, times and the way to the MAFs come in as
// values. PSK fits handshakes with pre-shared keys over streams and datagrams.
package entity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"muster"
	"muster/tef"
)

// A Config is what an Entity is configured with. It must not be changed after New.
type Config struct {
	// MAFs are those whose key identifiers are accepted. No other MAF is ever asked.
	MAFs []muster.FQDN
	// Usage is what keys must have been registered for: tef.SUIDMAFForSAEF, unless
	// the session serves something else.
	Usage muster.SUID
	// Timeout bounds the question to the MAF within a handshake, and RefusalMemory
	// is how long a refusal is remembered.
	Timeout       time.Duration
	RefusalMemory time.Duration
	// MaxKeys is how many keys are kept at most, until they expire; a key that was
	// dropped is retrieved again.
	MaxKeys int
}

// A Retriever asks the MAF named in an identifier for the key, over this entity's
// own authenticated session with it. It returns a muster.Refusal with
// CodeKeyUnknown if the MAF says no, and another error if the MAF cannot be asked.
// Several goroutines use it at once.
type Retriever interface {
	RetrieveKey(ctx context.Context, id tef.KeyID) (tef.KeyRegistration, error)
}

// An Entity answers handshakes. Its methods may be called by many goroutines at
// once.
type Entity struct {
	config     Config
	retriever  Retriever
	retrievals tef.Retrieval[tef.KeyRegistration]

	mu   sync.Mutex
	keys map[tef.KeyID]tef.KeyRegistration // guarded by mu
}

// New returns an Entity, or an error that says what the configuration lacks.
func New(config Config, retriever Retriever) (*Entity, error) {
	switch {
	case len(config.MAFs) == 0 || config.Usage == 0:
		return nil, errors.New("the entity has no MAF or no usage for its keys")
	case config.Timeout <= 0 || config.MaxKeys < 1:
		return nil, fmt.Errorf("the timeout %s or the maximum of %d keys is not positive", config.Timeout, config.MaxKeys)
	}
	return &Entity{config: config, retriever: retriever, keys: make(map[tef.KeyID]tef.KeyRegistration),
		retrievals: tef.Retrieval[tef.KeyRegistration]{Timeout: config.Timeout, RefusalMemory: config.RefusalMemory}}, nil
}

// PSK returns the key for the psk_identity of a handshake. Every refusal must look
// to the peer like a wrong key.
//
// TS-0003 8.8.2.8, 10.3.5
func (e *Entity) PSK(ctx context.Context, identity string, now time.Time) (muster.Kc, error) {
	id, err := tef.ParseKeyID(identity)
	if err != nil {
		return muster.Kc{}, muster.Refuse(muster.CodeKeyUnknown, "the psk_identity is no key identifier: %w", err)
	}
	if !slices.Contains(e.config.MAFs, id.Function()) {
		return muster.Kc{}, muster.Refuse(muster.CodeMAFNotListed, "%s is of a MAF that is not configured", id)
	}
	if kept, ok := e.kept(id, now); ok {
		return kept.Key, nil
	}
	key, err := e.retrievals.Do(ctx, id.String(), now, func(ctx context.Context) (tef.KeyRegistration, error) {
		return e.retrieve(ctx, id, now)
	})
	return key.Key, err
}

// retrieve asks the MAF, and keeps what fits.
func (e *Entity) retrieve(ctx context.Context, id tef.KeyID, now time.Time) (tef.KeyRegistration, error) {
	key, err := e.retriever.RetrieveKey(ctx, id)
	switch {
	case err != nil:
		return tef.KeyRegistration{}, err
	case key.ID != id || key.Key.IsZero() || key.Source.IsZero():
		return tef.KeyRegistration{}, fmt.Errorf("the MAF answered with another key than %s, or with none", id)
	case key.Usage != e.config.Usage:
		return tef.KeyRegistration{}, muster.Refuse(muster.CodeKeyUnknown, "%s is registered for SUID %s, not %s", id, key.Usage, e.config.Usage)
	case !now.Before(key.Expires):
		return tef.KeyRegistration{}, muster.Refuse(muster.CodeKeyExpired, "%s ended at %s", id, key.Expires)
	}
	e.keep(key, now)
	return key, nil
}

func (e *Entity) kept(id tef.KeyID, now time.Time) (tef.KeyRegistration, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	key, ok := e.keys[id]
	if ok && !now.Before(key.Expires) {
		delete(e.keys, id)
		ok = false
	}
	return key, ok
}

// keep makes room by what has expired, else by what comes first.
func (e *Entity) keep(key tef.KeyRegistration, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.keys) >= e.config.MaxKeys {
		for id, other := range e.keys {
			if !now.Before(other.Expires) {
				delete(e.keys, id)
			}
		}
	}
	for id := range e.keys {
		if len(e.keys) < e.config.MaxKeys {
			break
		}
		delete(e.keys, id)
	}
	e.keys[key.ID] = key
}

// Peer returns who the MAF says is at the other end of a session: the source that
// registered the session's key, and for which stakeholder. It is an error if the
// key has expired since, or has been dropped.
func (e *Entity) Peer(session *muster.Session, now time.Time) (tef.KeyRegistration, error) {
	id, err := tef.ParseKeyID(session.Peer.PSKIdentity)
	if err != nil {
		return tef.KeyRegistration{}, muster.Refuse(muster.CodeKeyUnknown, "the session has no key identifier: %w", err)
	}
	key, ok := e.kept(id, now)
	if !ok {
		return tef.KeyRegistration{}, muster.Refuse(muster.CodeKeyExpired, "%s is not kept any more", id)
	}
	return key, nil
}

// Forget drops a key, so that the next handshake asks the MAF for it again.
func (e *Entity) Forget(id tef.KeyID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.keys, id)
}
