// Package mef is the M2M Enrolment Function: it verifies Enrolees, keeps their
// Enrolment Keys, and hands each MAF the keys derived for it (TS-0003 8.3.2.2,
// 8.3.5). It knows no socket, clock or file: sessions, times and the Store come
// in as values.
package mef

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"muster"
	"muster/cert"
	"muster/primitive"
	"muster/tef"
)

// A Config is what a MEF is configured with. Function keeps it; it must not be
// changed afterwards.
type Config struct {
	FQDN       muster.FQDN
	Derivation muster.DerivationProfile
	Profile    cert.Profile // of the peers' certificates
	Rules                   // the first ones; see Function.Replace
	// Kpms has the pre-provisioned keys of Enrolees; nil where there are none.
	Kpms KpmStore
	// FetchWindow is how long after its first fetch a MAF is given a key again,
	// and MaxFetches how often in all.
	FetchWindow time.Duration
	MaxFetches  int
	// MaxLive is how many unexpired enrolments an Enrolee may have of which a key
	// was fetched; one more is refused, since it suggests a clone. Of the others,
	// so many are kept.
	MaxLive int
	// Wire has the names of resources and attributes, and Administrators the
	// stakeholders for which MEF clients may register.
	Wire           *primitive.Wire
	Administrators []muster.FQDN
	// Stakeholders admit some clients, or have configurations for them.
	Stakeholders []tef.Stakeholder
	// MaxKeys is how many unexpired keys a client may have registered.
	MaxKeys int
	// RetryDuration is after which time a client asks again that was told that there
	// is no command.
	RetryDuration time.Duration
	// Rand is the source of identifiers. It is read by several goroutines.
	Rand io.Reader
}

// A Function is an M2M Enrolment Function. Its methods may be called by many
// goroutines at once.
type Function struct {
	config   Config
	register atomic.Pointer[register]
	links    *cert.Links // what holds under any rules
	store    Store
	service  tef.Service
}

// maxLinks is how many signatures on intermediates are remembered: as many
// factories as send devices at one time.
const maxLinks = 4096

// New returns a MEF, or an error that names what in the configuration contradicts itself.
func New(config Config, store Store, records tef.Stores) (*Function, error) {
	if config.FQDN.IsZero() || config.Wire == nil || config.Rand == nil {
		return nil, errors.New("the MEF has no FQDN, no wire names or no source of chance")
	}
	if config.MaxKeys < 1 || config.RetryDuration <= 0 {
		return nil, fmt.Errorf("the maximum of %d keys or the retry duration %s is not positive", config.MaxKeys, config.RetryDuration)
	}
	if config.FetchWindow <= 0 || config.MaxFetches < 1 || config.MaxLive < 1 {
		return nil, fmt.Errorf("the fetch window %s, the maximum of %d fetches or of %d live enrolments is not positive",
			config.FetchWindow, config.MaxFetches, config.MaxLive)
	}
	f := &Function{config: config, links: cert.NewLinks(maxLinks), store: store, service: tef.Service{
		Party: tef.MEF(), FQDN: config.FQDN, Wire: config.Wire, Store: records.Registrations, Keys: records.Keys, Commands: records.Commands,
		Administrators: config.Administrators, Stakeholders: config.Stakeholders,
		MaxKeys: config.MaxKeys, RetryDuration: config.RetryDuration, Rand: config.Rand,
		FetchWindow: config.FetchWindow, MaxFetches: config.MaxFetches,
	}}
	f.service.Withheld = f.withheld
	return f, f.Replace(config.Rules)
}

// Replace puts rules in the place of those before, for all that begins after it;
// no session ends. It returns an error that names the rules that contradict each
// other, and changes nothing then.
func (f *Function) Replace(rules Rules) error {
	register, err := newRegister(rules)
	if err != nil {
		return err
	}
	f.register.Store(register)
	return nil
}

// Established exports and stores the Enrolment Key of an Enrolee's session. When
// it returns nil, the enrolment is durable and the peer may be answered. The
// session of a MAF yields no key: its enrolment is zero.
//
// A certificate and a pre-provisioned key lead to the same Enrolment Key.
//
// TS-0003 8.3.2.1, 8.3.2.2, 8.3.5.2.2
func (f *Function) Established(ctx context.Context, session *muster.Session, now time.Time) (Enrolment, error) {
	peer, err := f.known(session.Peer)
	if err != nil || peer.instruction == nil {
		return Enrolment{}, err
	}
	if err := f.activate(ctx, session, now); err != nil {
		return Enrolment{}, err
	}
	ke, keID, err := muster.EnrolmentKey(session, f.config.FQDN)
	if errors.Is(err, muster.ErrExported) {
		return Enrolment{}, muster.Refuse(muster.CodeAlreadyExported, "%w", err)
	} else if err != nil {
		return Enrolment{}, err
	}
	binding, err := session.Binding()
	if err != nil {
		return Enrolment{}, err
	}
	now = now.Truncate(time.Second)
	stored, err := f.store.CreateEnrolment(ctx, Enrolment{
		KeID: keID, EnroleeID: peer.instruction.EnroleeID, Targets: peer.instruction.Targets,
		Session: binding, Certificate: session.Peer.Certificate, Ke: ke,
		Created: now, Expires: now.Add(peer.instruction.Lifetime),
	}, f.config.MaxLive)
	return stored, refuseStore(err, keID)
}

// refuseStore gives a store's sentinels the codes under which they are refused.
func refuseStore(err error, id muster.KeID) error {
	switch {
	case errors.Is(err, ErrConflict):
		return muster.Refuse(muster.CodeKeyConflict, "%s: %w", id, err)
	case errors.Is(err, ErrTooMany):
		return muster.Refuse(muster.CodeCloneSuspected, "%s: %w", id, err)
	case errors.Is(err, ErrUnknown):
		return muster.Refuse(muster.CodeKeyUnknown, "%s is unknown, expired or spent, or this MAF is not among its targets: %w", id, err)
	case errors.Is(err, ErrBusy):
		return muster.Refuse(muster.CodeBusy, "%w", err)
	default:
		return err
	}
}

// Serve answers a request of an Enrolee or a MAF.
//
// TS-0003 8.3.5.2
func (f *Function) Serve(ctx context.Context, session *muster.Session, r *primitive.Request, now time.Time) (*primitive.Response, error) {
	peer, err := f.known(session.Peer)
	if err != nil {
		return nil, err
	}
	return f.service.Serve(ctx, f.client(session, peer, now), r, now)
}
