// Package maf is the M2M Authentication Function: it authenticates clients by a
// Master Credential that it fetches from a MEF within the client's first
// handshake, and registers them under a KmID (TS-0003 8.3.2.2, 8.8); others it
// authenticates by their certificate. It knows no
// socket, clock or file: identities, sessions, times, the Store and the way to
// the MEFs come in as values.
package maf

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"muster"
	"muster/cert"
	"muster/primitive"
	"muster/tef"
)

// A Config is what a MAF is configured with. Function keeps it; it must not be
// changed afterwards.
type Config struct {
	FQDN muster.FQDN
	// MEFs are the MEFs whose KeIDs are accepted. No other MEF is ever asked.
	MEFs []MEF
	// Clients are those that authenticate by a certificate, and Intermediates are
	// for those of them that send their leaf only.
	Clients       []Client
	Profile       cert.Profile // of the clients' certificates
	Intermediates []*x509.Certificate
	// KeIDLifetime is how long after its first session a KeID opens sessions, if
	// the KmID does not succeed before. It does not begin at the fetch: whoever
	// saw the KeID can cause one, and would lock the client out.
	KeIDLifetime time.Duration
	// FetchTimeout bounds the fetch within a handshake, and RefusalMemory is how
	// long a MEF's refusal is remembered.
	FetchTimeout  time.Duration
	RefusalMemory time.Duration
	// MayFetch is asked before each fetch, with the context of the handshake, and
	// refuses those of a source that causes too many. Nil allows all.
	MayFetch func(ctx context.Context, now time.Time) error
	// Wire has the names of resources and attributes, and Administrators the
	// stakeholders for which MAF clients may register.
	Wire           *primitive.Wire
	Administrators []muster.FQDN
	// Stakeholders admit some clients, or have configurations for them.
	Stakeholders []tef.Stakeholder
	// MaxKeys is how many unexpired keys a client may have registered.
	MaxKeys int
	// Rand is the source of key identifiers. It is read by several goroutines.
	Rand io.Reader
}

// A MEF is one whose KeIDs are accepted.
type MEF struct {
	FQDN muster.FQDN
	// Enrolees are what the identifiers of those begin with that the MEF may answer
	// for, each with the SP domain and the slash after it. A MEF that is alone may
	// have none, and answers for all. Of several each needs some, for one of them
	// could else take over the Enrolees of another; what they are to share stands
	// in the lists of both alike.
	Enrolees []string
}

func (m *MEF) answersFor(id muster.EnroleeID) bool {
	return len(m.Enrolees) == 0 || slices.ContainsFunc(m.Enrolees, func(prefix string) bool { return strings.HasPrefix(id.String(), prefix) })
}

func (m *MEF) check() error {
	for _, prefix := range m.Enrolees {
		domain, _, whole := strings.Cut(strings.TrimPrefix(prefix, "//"), "/")
		if !strings.HasPrefix(prefix, "//") || domain == "" || !whole {
			return fmt.Errorf("the prefix %q of Enrolee-IDs of the MEF %s is not //, a domain, a slash and what follows", prefix, m.FQDN)
		}
	}
	return nil
}

// checkMEFs refuses MEFs of which one answers for Enrolees of another by oversight.
func checkMEFs(mefs []MEF) error {
	owners := map[string]muster.FQDN{}
	for i := range mefs {
		m := &mefs[i]
		if err := m.check(); err != nil {
			return err
		}
		if len(mefs) > 1 && len(m.Enrolees) == 0 {
			return fmt.Errorf("the MEF %s is one of several and may answer for all Enrolees; list what the identifiers of its own begin with", m.FQDN)
		}
		for _, prefix := range m.Enrolees {
			owners[prefix] = m.FQDN
		}
	}
	sorted := slices.Sorted(maps.Keys(owners))
	for i, shorter := range sorted {
		for _, longer := range sorted[i+1:] {
			if !strings.HasPrefix(longer, shorter) {
				break
			}
			if owners[shorter] != owners[longer] {
				return fmt.Errorf("the MEF %s may answer for %s…, which is within %s… of the MEF %s; write what both are to share into both lists alike",
					owners[longer], longer, shorter, owners[shorter])
			}
		}
	}
	return nil
}

// A Retriever asks a MEF for the key of a KeID, over this MAF's own mutually
// authenticated session. It returns a muster.Refusal if the MEF says no, and
// another error if the MEF cannot be asked. Several goroutines may use it.
type Retriever interface {
	RetrieveKey(ctx context.Context, id muster.KeID, usage muster.SUID) (RetrievedKey, error)
}

// A RetrievedKey is a MEF's answer.
type RetrievedKey struct {
	Km        muster.Km
	EnroleeID muster.EnroleeID
	Lifetime  time.Duration
}

// A Function is an M2M Authentication Function. Its methods may be called by many
// goroutines at once.
type Function struct {
	config    Config
	clients   clients
	store     Store
	retriever Retriever
	fetches   tef.Retrieval[muster.Km]
	service   tef.Service
}

// New returns a MAF, or an error that says what the configuration lacks.
func New(config Config, store Store, records tef.Stores, retriever Retriever) (*Function, error) {
	switch {
	case config.FQDN.IsZero() || config.Wire == nil || config.Rand == nil || config.MaxKeys < 1:
		return nil, errors.New("the MAF has no FQDN, no wire names, no source of chance or no keys to distribute")
	case config.KeIDLifetime <= 0 || config.FetchTimeout <= 0:
		return nil, fmt.Errorf("the KeID lifetime %s or the fetch timeout %s is not positive", config.KeIDLifetime, config.FetchTimeout)
	}
	for i := range config.MEFs {
		m := &config.MEFs[i]
		if m.FQDN == config.FQDN {
			return nil, fmt.Errorf("%s cannot be both the MAF and one of its MEFs: a key identifier would be ambiguous", config.FQDN)
		}
	}
	if err := checkMEFs(config.MEFs); err != nil {
		return nil, err
	}
	clients, err := newClients(config.Clients)
	if err != nil {
		return nil, err
	}
	return &Function{config: config, clients: clients, store: store, retriever: retriever, fetches: tef.Retrieval[muster.Km]{
		Timeout: config.FetchTimeout, RefusalMemory: config.RefusalMemory,
	}, service: tef.Service{
		Party: tef.MAF(), FQDN: config.FQDN, Wire: config.Wire, Store: records.Registrations, Keys: records.Keys,
		Administrators: config.Administrators, Stakeholders: config.Stakeholders, MaxKeys: config.MaxKeys, Rand: config.Rand,
	}}, nil
}

// PSK returns the Master Credential for the psk_identity of a handshake: that of
// a KmID or KeID in the store, else that of a KeID which it fetches from the MEF
// and stores. Every refusal must look to the peer like a wrong key.
//
// TS-0003 8.3.2.1, 8.8.2.2
func (f *Function) PSK(ctx context.Context, identity string, now time.Time) (muster.Km, error) {
	if id, ok := f.kmID(identity); ok {
		c, err := f.store.CredentialByKmID(ctx, id, now)
		return c.Km, refuseStore(err, identity)
	}
	id, err := muster.ParseKeID(identity)
	if err != nil {
		return muster.Km{}, muster.Refuse(muster.CodeKeyUnknown, "the psk_identity is neither a KmID of %s nor a KeID: %w", f.config.FQDN, err)
	}
	if f.mef(id) == nil {
		return muster.Km{}, muster.Refuse(muster.CodeMEFNotListed, "%s is of a MEF that is not configured", id)
	}
	c, err := f.store.CredentialByKeID(ctx, id, now)
	if !errors.Is(err, ErrUnknown) {
		return c.Km, refuseStore(err, identity)
	}
	if f.config.MayFetch != nil {
		if err := f.config.MayFetch(ctx, now); err != nil {
			return muster.Km{}, err // and not remembered: others may ask for this KeID
		}
	}
	return f.fetches.Do(ctx, id.String(), now, func(ctx context.Context) (muster.Km, error) { return f.fetch(ctx, id, now) })
}

// mef returns the listed MEF of a KeID, or nil.
func (f *Function) mef(id muster.KeID) *MEF {
	i := slices.IndexFunc(f.config.MEFs, func(m MEF) bool { return m.FQDN == id.MEF() })
	if i < 0 {
		return nil
	}
	return &f.config.MEFs[i]
}

// fetch asks the MEF and makes its answer durable. It looks into the store again,
// for a handshake may come here that looked before another one's fetch ended: the
// MEF hands a key over a few times only.
func (f *Function) fetch(ctx context.Context, id muster.KeID, now time.Time) (muster.Km, error) {
	if c, err := f.store.CredentialByKeID(ctx, id, now); !errors.Is(err, ErrUnknown) {
		return c.Km, refuseStore(err, id.String())
	}
	key, err := f.retriever.RetrieveKey(ctx, id, muster.SUIDForMAF)
	if err != nil {
		return muster.Km{}, err
	}
	if !f.mef(id).answersFor(key.EnroleeID) {
		return muster.Km{}, muster.Refuse(muster.CodeNotOfMEF, "%s: the MEF answers for %s", id, key.EnroleeID)
	}
	if f.hasClient(key.EnroleeID) {
		return muster.Km{}, muster.Refuse(muster.CodeNotOfMEF, "%s: %s is a client with a certificate", id, key.EnroleeID)
	}
	now = now.Truncate(time.Second)
	err = f.store.PutCredential(ctx, Credential{
		KmID: key.Km.KmID(f.config.FQDN), KeID: id, EnroleeID: key.EnroleeID, MAF: f.config.FQDN, Km: key.Km,
		Created: now, Expires: now.Add(key.Lifetime), KeIDUntil: now.Add(key.Lifetime),
	})
	return key.Km, refuseStore(err, id.String())
}

// Established returns the credential of a session. The first session under a KeID
// limits its time; the first under a KmID retires the KeID and the older
// credentials of the Enrolee. When it returns nil, that is durable and the peer
// may be answered.
//
// TS-0003 8.8.2.2
func (f *Function) Established(ctx context.Context, session *muster.Session, now time.Time) (Credential, error) {
	identity := session.Peer.PSKIdentity
	if id, ok := f.kmID(identity); ok {
		if err := f.store.ActivateKmID(ctx, id, now); err != nil {
			return Credential{}, refuseStore(err, identity)
		}
	} else if id, err := muster.ParseKeID(identity); err == nil {
		if err := f.store.LimitKeID(ctx, id, now.Add(f.config.KeIDLifetime)); err != nil {
			return Credential{}, refuseStore(err, identity)
		}
	}
	return f.Credential(ctx, session, now)
}

// Credential returns the credential by which a session was opened, if it may
// still be used at now. That of a client with a certificate has no key and no
// identifier of one.
func (f *Function) Credential(ctx context.Context, session *muster.Session, now time.Time) (Credential, error) {
	identity := session.Peer.PSKIdentity
	if identity == "" {
		return f.byCertificate(session, now)
	}
	if id, ok := f.kmID(identity); ok {
		c, err := f.store.CredentialByKmID(ctx, id, now)
		return c, refuseStore(err, identity)
	}
	id, err := muster.ParseKeID(identity)
	if err != nil {
		return Credential{}, muster.Refuse(muster.CodeKeyUnknown, "the session has no key identifier: %w", err)
	}
	c, err := f.store.CredentialByKeID(ctx, id, now)
	return c, refuseStore(err, identity)
}

// Serve answers a request of a MAF client: the registration by which it learns its
// KmID, and the registration and retrieval of keys.
//
// TS-0003 8.8.2
func (f *Function) Serve(ctx context.Context, session *muster.Session, r *primitive.Request, now time.Time) (*primitive.Response, error) {
	c, err := f.Credential(ctx, session, now)
	if err != nil {
		return nil, err
	}
	return f.service.Serve(ctx, tef.Client{
		Identity: c.EnroleeID.String(), ID: c.EnroleeID, KmID: c.KmID, Expires: c.Expires,
		Export: func(context.Context, muster.SUID, []string) (tef.ExportedKey, error) {
			kc, relative, err := muster.ConnectionKey(session)
			if errors.Is(err, muster.ErrExported) {
				err = muster.Refuse(muster.CodeAlreadyExported, "%w", err)
			}
			return tef.ExportedKey{Relative: relative, Key: kc, Latest: c.Expires}, err
		},
	}, r, now)
}

// kmID tells the KmIDs of this MAF from KeIDs, which have the same form.
func (f *Function) kmID(identity string) (muster.KmID, bool) {
	id, err := muster.ParseKmID(identity)
	return id, err == nil && id.MAF() == f.config.FQDN
}

// refuseStore gives a store's sentinels the codes under which they are refused.
func refuseStore(err error, identity string) error {
	switch {
	case errors.Is(err, ErrUnknown):
		return muster.Refuse(muster.CodeKeyUnknown, "%s: %w", identity, err)
	case errors.Is(err, ErrRetired):
		return muster.Refuse(muster.CodeKeyRetired, "%s: %w", identity, err)
	case errors.Is(err, ErrConflict):
		return muster.Refuse(muster.CodeKeyConflict, "%s: %w", identity, err)
	case errors.Is(err, ErrBusy):
		return muster.Refuse(muster.CodeBusy, "%w", err)
	default:
		return err
	}
}
