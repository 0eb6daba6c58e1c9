package enrolee

import (
	"context"
	"errors"

	"muster"
	"muster/primitive"
	"muster/tef"
)

// Mmaf returns the procedures with the MAF over this session.
func (a *Attachment) Mmaf() *tef.Requester {
	return a.enrolee.requester(tef.MAF(), a.Credential.MAF, a.Conn)
}

// RegisterKey registers a key with the MAF for r.Targets, and returns it with its
// identifier: r.Key, or, if that is absent, the Kc of this session, which yields
// one once. r.Usage is needed; r.AdminFQDN is that of the Enrolee if it is zero. The
// key may be used when RegisterKey has returned.
//
// TS-0003 8.8.2.7, 10.3.5
func (a *Attachment) RegisterKey(ctx context.Context, r tef.KeyRegistration) (tef.KeyRegistration, error) {
	if r.AdminFQDN.IsZero() {
		r.AdminFQDN = a.enrolee.config.AdminFQDN
	}
	key, want := r.Key, tef.KeyID{}
	if key.IsZero() {
		kc, relative, err := muster.ConnectionKey(a.Session())
		if errors.Is(err, muster.ErrExported) {
			return tef.KeyRegistration{}, muster.Refuse(muster.CodeAlreadyExported, "%w", err)
		} else if err != nil {
			return tef.KeyRegistration{}, err
		}
		key, want = kc, tef.NewKeyID(relative, a.Credential.MAF)
	}
	made, err := a.Mmaf().RegisterKey(ctx, r)
	switch {
	case err != nil:
		return tef.KeyRegistration{}, refused(err, "key registration with the MAF %s", a.Credential.MAF)
	case !want.IsZero() && made.ID != want:
		return tef.KeyRegistration{}, muster.Refuse(muster.CodeRegistrationWrong, "the MAF %s gave the key identifier %s to what both ends exported as %s", a.Credential.MAF, made.ID, want)
	case made.Usage != r.Usage:
		return tef.KeyRegistration{}, muster.Refuse(muster.CodeRegistrationWrong, "the MAF %s registered %s for SUID %s, not %s", a.Credential.MAF, made.ID, made.Usage, r.Usage)
	}
	made.Key = key
	return made, nil
}

// Keys retrieves keys from the MAF over sessions of an Enrolee: one is opened when
// it is first needed, kept, and opened again when it has failed. It is an
// entity.Retriever. It uses the Enrolee alone, and may be used by several
// goroutines, which take turns.
type Keys struct {
	enrolee    *Enrolee
	turn       chan struct{} // holds the right to use what follows
	attachment *Attachment
}

// NewKeys returns the Keys of an Enrolee, which nothing else may use until Close.
func NewKeys(e *Enrolee) *Keys { return &Keys{enrolee: e, turn: make(chan struct{}, 1)} }

// RetrieveKey returns a key that was registered for the Enrolee. It is a
// muster.Refusal with CodeKeyUnknown if the MAF hands out none, with
// CodeMAFNotListed if the identifier is another MAF's, and another error if the
// MAF cannot be asked.
//
// TS-0003 8.8.2.8
func (k *Keys) RetrieveKey(ctx context.Context, id tef.KeyID) (tef.KeyRegistration, error) {
	if id.Function() != k.enrolee.config.MAF {
		return tef.KeyRegistration{}, muster.Refuse(muster.CodeMAFNotListed, "%s is not of the MAF %s", id, k.enrolee.config.MAF)
	}
	select {
	case k.turn <- struct{}{}:
	case <-ctx.Done():
		return tef.KeyRegistration{}, muster.Refuse(muster.CodeMAFUnreachable, "%s: %w", id, ctx.Err())
	}
	defer func() { <-k.turn }()
	kept := k.attachment != nil
	key, err := k.retrieve(ctx, id)
	if kept && k.attachment == nil && ctx.Err() == nil {
		key, err = k.retrieve(ctx, id) // the session that was kept had ended meanwhile
	}
	return key, err
}

// retrieve asks over the session at hand, and gives it up if there is no answer.
func (k *Keys) retrieve(ctx context.Context, id tef.KeyID) (tef.KeyRegistration, error) {
	if k.attachment == nil {
		attachment, err := k.enrolee.Ensure(ctx)
		if err != nil {
			return tef.KeyRegistration{}, muster.Refuse(muster.CodeMAFUnreachable, "%s: %w", id, err)
		}
		k.attachment = attachment
	}
	key, err := k.attachment.Mmaf().RetrieveKey(ctx, id)
	refusal, answered := errors.AsType[*primitive.Error](err)
	switch {
	case err == nil:
		return key, nil
	case answered && refusal.Status == primitive.NotFound:
		return tef.KeyRegistration{}, muster.Refuse(muster.CodeKeyUnknown, "%s: the MAF hands out no key for it: %w", id, err)
	case answered:
		return tef.KeyRegistration{}, muster.Refuse(muster.CodePeerRefused, "%s: %w", id, err)
	}
	_ = k.attachment.Close()
	k.attachment = nil
	return tef.KeyRegistration{}, muster.Refuse(muster.CodeMAFUnreachable, "%s: %w", id, err)
}

// Close ends the session at hand.
func (k *Keys) Close() error {
	k.turn <- struct{}{}
	defer func() { <-k.turn }()
	if k.attachment == nil {
		return nil
	}
	err := k.attachment.Close()
	k.attachment = nil
	return err
}
