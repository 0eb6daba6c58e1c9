package mef

import (
	"context"
	"errors"
	"slices"
	"time"

	"muster"
	"muster/primitive"
	"muster/tef"
)

// client returns who sends requests over a session, and what the session lets it
// do with keys.
func (f *Function) client(session *muster.Session, peer pin, now time.Time) tef.Client {
	in := peer.instruction
	if in == nil {
		return tef.Client{
			Identity: peer.maf.String(),
			Enrolled: func(ctx context.Context, id tef.KeyID) (tef.KeyRegistration, error) {
				return f.enrolled(ctx, peer.maf, id, now)
			},
		}
	}
	return tef.Client{
		Identity: in.EnroleeID.String(), ID: in.EnroleeID, Expires: now.Add(in.Lifetime),
		Export: func(ctx context.Context, usage muster.SUID, targets []string) (tef.ExportedKey, error) {
			return f.export(ctx, session, in, usage, targets, now)
		},
		Permit:   in.permit,
		Withdraw: f.withdraw,
	}
}

// permit refuses a key for a MAF that is no target of the instruction, also where
// the Enrolee brings the key itself: it is the operator who says by which MAFs an
// Enrolee is served.
//
// TS-0003 8.3.2.1
func (in *Instruction) permit(usage muster.SUID, targets []string) error {
	if usage != muster.SUIDForMAF {
		return nil
	}
	for _, target := range targets {
		if !slices.ContainsFunc(in.Targets, func(maf muster.FQDN) bool { return maf.String() == target }) {
			return muster.Refuse(muster.CodeRequestNotAllowed, "%s is not a target of %s", target, in.EnroleeID)
		}
	}
	return nil
}

// export refers a registration without a key to the Enrolment Key of the session,
// whose one export Ke itself has used up. The Master Credential is derived when
// the MAF asks, within the bounds of every enrolment; the key for another Enrolee
// is derived at once, since Ke may be erased before that one asks.
//
// TS-0003 8.3.5.2.7, 10.3.3
func (f *Function) export(ctx context.Context, session *muster.Session, in *Instruction, usage muster.SUID, targets []string, now time.Time) (tef.ExportedKey, error) {
	if len(targets) != 1 {
		return tef.ExportedKey{}, &primitive.Error{Status: primitive.BadRequest, Detail: "several targets need a keyValue"}
	}
	binding, err := session.Binding()
	if err != nil {
		return tef.ExportedKey{}, err
	}
	e, err := f.store.EnrolmentOf(ctx, in.EnroleeID, binding, now)
	if err != nil {
		return tef.ExportedKey{}, refuseStore(err, e.KeID)
	}
	exported := tef.ExportedKey{Relative: e.KeID.Relative(), Latest: e.Expires}
	switch usage {
	case muster.SUIDForMAF:
		for _, target := range e.Targets {
			if target.String() == targets[0] {
				return exported, nil
			}
		}
		return tef.ExportedKey{}, muster.Refuse(muster.CodeRequestNotAllowed, "%s is not a target of %s", targets[0], in.EnroleeID)
	case muster.SUIDForSAEF:
		target, err := muster.ParseEnroleeID(targets[0])
		if err != nil {
			return tef.ExportedKey{}, err
		}
		if e.Ke.IsZero() {
			return tef.ExportedKey{}, muster.Refuse(muster.CodeAlreadyExported, "Ke of %s is erased", e.KeID)
		}
		octets := e.Ke.ProvisionedConnectionKey(target).Reveal()
		defer clear(octets)
		exported.Key, err = muster.NewKc(octets)
		return exported, err
	}
	return tef.ExportedKey{}, &primitive.Error{Status: primitive.BadRequest, Detail: "a key of this SUID needs a keyValue"}
}

// enrolled derives the Master Credential of an enrolment for the MAF that asks. A
// verdict is asked for before the fetch, which counts, so that what is withheld for
// a while is not spent meanwhile, and after it, for one that came between.
func (f *Function) enrolled(ctx context.Context, maf muster.FQDN, id tef.KeyID, now time.Time) (tef.KeyRegistration, error) {
	withheld := func(e Enrolment) error {
		if reason := f.register.Load().withheld(e, maf); reason != "" {
			return muster.Refuse(muster.CodeKeyUnknown, "%s of %s is withheld: %s", id, e.EnroleeID, reason)
		}
		return nil
	}
	stored, err := f.store.EnrolmentFor(ctx, id.KeID(), maf)
	if err != nil {
		return tef.KeyRegistration{}, refuseStore(err, id.KeID())
	}
	if err := withheld(stored); err != nil {
		return tef.KeyRegistration{}, err
	}
	stored, err = f.store.FetchEnrolment(ctx, Fetch{
		KeID: id.KeID(), MAF: maf, Now: now, Window: f.config.FetchWindow, Max: f.config.MaxFetches,
	})
	if err != nil {
		return tef.KeyRegistration{}, refuseStore(err, id.KeID())
	}
	if err := withheld(stored); err != nil {
		return tef.KeyRegistration{}, err
	}
	km, err := stored.Ke.MasterCredential(f.config.Derivation, maf)
	if err != nil {
		return tef.KeyRegistration{}, err
	}
	octets := km.Reveal()
	defer clear(octets)
	key, err := muster.NewKc(octets)
	return tef.KeyRegistration{
		ID: id, Source: stored.EnroleeID, Usage: muster.SUIDForMAF, Targets: []string{maf.String()}, Key: key,
		Created: stored.Created, Modified: stored.Created, Expires: stored.Expires,
	}, err
}

// withheld says why the key of an enrolment is not for a MAF any more, which was a
// target when the Enrolee enrolled, and nothing if it is.
func (r *register) withheld(e Enrolment, maf muster.FQDN) string {
	if !r.enrolees.serves(maf, e.EnroleeID) {
		return maf.String() + " is no target of the Enrolee any more"
	}
	return r.verdicts.void(e)
}

// withheld extends the operator's verdicts and the present targets to keys that an
// Enrolee has registered.
func (f *Function) withheld(r tef.KeyRegistration) string {
	rules, e := f.register.Load(), Enrolment{EnroleeID: r.Source, Created: r.Created}
	if r.Usage != muster.SUIDForMAF {
		return rules.verdicts.void(e)
	}
	for _, target := range r.Targets {
		maf, err := muster.ParseFQDN(target)
		if err != nil {
			return "a target is no MAF"
		}
		if reason := rules.withheld(e, maf); reason != "" {
			return reason
		}
	}
	return ""
}

// withdraw erases the key of an enrolment for the MAF that a registration named.
func (f *Function) withdraw(ctx context.Context, id tef.KeyID, target string) error {
	maf, err := muster.ParseFQDN(target)
	if err != nil {
		return err
	}
	if err := f.store.EraseEnrolment(ctx, id.KeID(), maf); !errors.Is(err, ErrUnknown) {
		return refuseStore(err, id.KeID())
	}
	return nil
}

// A ProvisionedKey is what a target gets for a KeID.
type ProvisionedKey struct {
	Km        muster.Km // for a MAF, derived for it alone
	EnroleeID muster.EnroleeID
	Lifetime  time.Duration // what remains of it, in whole seconds
}

// FetchCredential hands the key for a usage to the peer of a session, which may
// leave the originator empty but not name another. It is the retrieval of a key
// under another name. The refusals for a KeID that is unknown, expired, spent or
// another target's differ in nothing but the detail for the operator.
//
// TS-0003 8.3.2.1, 8.3.5.2.8
func (f *Function) FetchCredential(ctx context.Context, session *muster.Session, originator string, id muster.KeID, usage muster.SUID, now time.Time) (ProvisionedKey, error) {
	peer, err := f.known(session.Peer)
	if err != nil {
		return ProvisionedKey{}, muster.Refuse(muster.CodeNotTarget, "%w", err)
	}
	client := f.client(session, peer, now)
	switch {
	case originator != "" && originator != client.Identity:
		return ProvisionedKey{}, muster.Refuse(muster.CodeOriginMismatch, "the originator %q is not %s, which the session authenticated", originator, client.Identity)
	case id.MEF() != f.config.FQDN:
		return ProvisionedKey{}, muster.Refuse(muster.CodeKeyUnknown, "%s is not a KeID of this MEF", id)
	case usage != muster.SUIDForMAF:
		client.Enrolled = nil // a key for another usage is not counted as fetched
	}
	stored, err := f.service.RetrieveKey(ctx, client, tef.NewKeyID(id.Relative(), f.config.FQDN), now)
	if err != nil {
		return ProvisionedKey{}, err
	}
	if stored.Usage != usage || stored.Key.IsZero() || !stored.For(client.Identity) {
		return ProvisionedKey{}, muster.Refuse(muster.CodeNotTarget, "%s is no target of %s with the SUID %s", client.Identity, id, usage)
	}
	octets := stored.Key.Reveal()
	defer clear(octets)
	km, err := muster.NewKm(octets)
	return ProvisionedKey{km, stored.Source, stored.Expires.Sub(now).Truncate(time.Second)}, err
}
