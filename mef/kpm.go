package mef

import (
	"context"
	"errors"
	"fmt"
	"time"

	"muster"
)

// A ProvisionedKpm is a pre-provisioned key as the MEF keeps it.
type ProvisionedKpm struct {
	KpmID     muster.KpmID
	EnroleeID muster.EnroleeID
	Kpm       muster.Kpm
	Created   time.Time // times are kept in whole seconds
	// Until is the time from which the key is refused; zero for no end. The store
	// sets it when a newer key of the Enrolee is imported.
	Until time.Time
}

// An Import is a list of keys that become known together.
type Import struct {
	Kpms []ProvisionedKpm // at least one, each with another KpmID; without Until
	// Overlap is how long the Enrolee's older keys stay valid, unless a newer one
	// is used before.
	Overlap time.Duration
	// Replace puts another Kpm in the place of that under the same KpmID, at once:
	// a handshake names the identity, so that two keys under it cannot be told apart.
	Replace bool
	// DryRun returns what would be, and changes nothing.
	DryRun bool
}

// An Imported says what became of an Import.
type Imported struct {
	Added, Replaced, Unchanged int
	Conflicts                  []int // indices of those that cannot be imported
}

// An ImportStep is what an import does with one key of its list.
type ImportStep int

// The steps of an import.
const (
	LeaveKpm   ImportStep = iota // it is kept already
	AddKpm                       // it is new, and ends the older ones of its Enrolee
	ReplaceKpm                   // it takes the place of another under its KpmID
)

// Plan says what the import does with each of its keys, in their order, for a
// KpmStore to carry out. kept returns what the store keeps under an identifier,
// without a Kpm if that was erased. With conflicts the error is ErrConflict and
// nothing is to be done.
func (list Import) Plan(kept func(muster.KpmID) (kpm ProvisionedKpm, found bool, err error)) (plan []ImportStep, done Imported, err error) {
	listed := make(map[muster.KpmID]ProvisionedKpm, len(list.Kpms))
	for i, kpm := range list.Kpms {
		before, found := listed[kpm.KpmID]
		if !found {
			if before, found, err = kept(kpm.KpmID); err != nil {
				return nil, Imported{}, err
			}
		}
		step := LeaveKpm
		switch {
		case !found:
			step = AddKpm
			done.Added++
		case before.EnroleeID == kpm.EnroleeID && before.Kpm.Equal(kpm.Kpm):
			done.Unchanged++
		case before.EnroleeID == kpm.EnroleeID && !before.Kpm.IsZero() && list.Replace:
			step = ReplaceKpm
			done.Replaced++
		default:
			done.Conflicts = append(done.Conflicts, i)
			continue
		}
		plan, listed[kpm.KpmID] = append(plan, step), kpm
	}
	if done.Conflicts != nil {
		return nil, Imported{Conflicts: done.Conflicts}, fmt.Errorf("%w: %d of %d keys", ErrConflict, len(done.Conflicts), len(list.Kpms))
	}
	return plan, done, nil
}

// A KpmStore keeps the pre-provisioned keys of a MEF. What Store says of
// concurrency, durability and repetition holds for it as well.
//
// A key is usable until its Until, and until a newer key of the same Enrolee is
// activated, whatever a clock says; then it is erased, and its KpmID never
// returns. No method counts failures: what a stranger does in the name of an
// identity must not change what its owner can do.
type KpmStore interface {
	// ImportKpms makes all keys of a list known, or none. A KpmID that is kept
	// already with the same Kpm and Enrolee is unchanged. One that is kept with
	// another Enrolee, or erased, or has another Kpm and the Import does not
	// replace, is a conflict: then nothing changes, all conflicts are returned and
	// the error is ErrConflict. An added key ends the older ones of its Enrolee at
	// Created plus Overlap, if they do not end before; in a list, the later is the
	// newer.
	ImportKpms(ctx context.Context, list Import) (Imported, error)

	// Kpm returns a key that is usable at now, else ErrUnknown.
	Kpm(ctx context.Context, id muster.KpmID, now time.Time) (ProvisionedKpm, error)

	// ActivateKpm notes that a session with the key has succeeded: the older keys
	// of the Enrolee are erased. Activating again does nothing. ErrUnknown without
	// a key that Kpm returns.
	ActivateKpm(ctx context.Context, id muster.KpmID, now time.Time) error

	// SweepKpms erases at most limit keys whose Until has come at now, perhaps not
	// all in one transaction, and returns their number; less than limit means that
	// nothing was left to do.
	SweepKpms(ctx context.Context, now time.Time, limit int) (int, error)
}

// PSK returns the Kpm for the psk_identity of a handshake. Every refusal must look
// to the peer like a wrong key; the store is asked for every KpmID, so that its
// time is the same whether the rules know it or not.
//
// TS-0003 8.3.2.1, 8.3.5.2.2
func (f *Function) PSK(ctx context.Context, identity string, now time.Time) (muster.Kpm, error) {
	id, err := muster.ParseKpmID(identity)
	if err != nil {
		return muster.Kpm{}, muster.Refuse(muster.CodeKeyUnknown, "the psk_identity is no KpmID: %w", err)
	}
	if f.config.Kpms == nil {
		return muster.Kpm{}, muster.Refuse(muster.CodeKeyUnknown, "%s: this MEF keeps no pre-provisioned keys", id)
	}
	stored, err := f.config.Kpms.Kpm(ctx, id, now)
	pinned, unknown := f.known(muster.Peer{PSKIdentity: identity})
	switch {
	case unknown != nil:
		return muster.Kpm{}, unknown
	case err != nil:
		return muster.Kpm{}, refuseKpm(err, id)
	case stored.EnroleeID != pinned.instruction.EnroleeID:
		return muster.Kpm{}, muster.Refuse(muster.CodeKeyUnknown, "%s was imported for %s, not for %s", id, stored.EnroleeID, pinned.instruction.EnroleeID)
	}
	return stored.Kpm, nil
}

// activate notes the success of a session under a KpmID.
func (f *Function) activate(ctx context.Context, session *muster.Session, now time.Time) error {
	if session.Peer.PSKIdentity == "" {
		return nil
	}
	id, err := muster.ParseKpmID(session.Peer.PSKIdentity)
	if err != nil {
		return muster.Refuse(muster.CodeKeyUnknown, "the psk_identity is no KpmID: %w", err)
	}
	if f.config.Kpms == nil {
		return muster.Refuse(muster.CodeKeyUnknown, "%s: this MEF keeps no pre-provisioned keys", id)
	}
	return refuseKpm(f.config.Kpms.ActivateKpm(ctx, id, now), id)
}

func refuseKpm(err error, id muster.KpmID) error {
	switch {
	case errors.Is(err, ErrUnknown):
		return muster.Refuse(muster.CodeKeyUnknown, "%s: %w", id, err)
	case errors.Is(err, ErrBusy):
		return muster.Refuse(muster.CodeBusy, "%w", err)
	default:
		return err
	}
}
