package mustertest

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"muster"
	"muster/maf"
	"muster/mef"
	"muster/tef"
)

// A Memory is every store of mef, maf and tef at once, and keeps everything in
// memory and so is durable only as long as the process. It is written for
// clarity: one lock, and every rule of the contracts in the plainest form.
type Memory struct {
	mu            sync.Mutex
	enrolments    map[muster.KeID]*enrolmentRecord  // guarded by mu
	credentials   []*credentialRecord               // guarded by mu, in the order of storing
	registrations map[string]tef.ClientRegistration // guarded by mu, by function and id
	keys          map[tef.KeyID]*keyRecord          // guarded by mu
	commands      []tef.QueuedCommand               // guarded by mu, in the order of queueing
	kpms          []*kpmRecord                      // guarded by mu, in the order of import
}

var (
	_ mef.Store = (*Memory)(nil)
	_ maf.Store = (*Memory)(nil)
	_ tef.Store = (*Memory)(nil)

	_ mef.KpmStore     = (*Memory)(nil)
	_ tef.KeyStore     = (*Memory)(nil)
	_ tef.CommandStore = (*Memory)(nil)
)

// An enrolmentRecord is an enrolment and what became of it for each target that is
// still kept.
type enrolmentRecord struct {
	mef.Enrolment
	targets map[muster.FQDN]*delivery
}

type delivery struct {
	gone    mef.EnrolmentState // why the key is erased; "" while it is kept
	fetches int
	first   time.Time
}

type credentialRecord struct {
	maf.Credential
	generation int64
	activated  bool
	gone       maf.CredentialState // why it is retired whole; "" while it is not
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{
		enrolments:    make(map[muster.KeID]*enrolmentRecord),
		registrations: make(map[string]tef.ClientRegistration),
		keys:          make(map[tef.KeyID]*keyRecord),
	}
}

func expired(expires, now time.Time) bool { return !now.Before(expires) }

func wholeSecond(t time.Time) time.Time { return time.Unix(t.Unix(), 0).UTC() }

func byName(a, b muster.FQDN) int { return cmp.Compare(a.String(), b.String()) }

// snapshot returns a copy that the caller may change.
func (r *enrolmentRecord) snapshot() mef.Enrolment {
	e := r.Enrolment
	e.Targets = slices.Clone(e.Targets)
	e.Ke = muster.Ke{}
	for _, d := range r.targets {
		if d.gone == "" {
			e.Ke = r.Ke
		}
	}
	return e
}

// CreateEnrolment is mef.Store's.
func (m *Memory) CreateEnrolment(ctx context.Context, e mef.Enrolment, maxLive int) (mef.Enrolment, error) {
	if err := ctx.Err(); err != nil {
		return mef.Enrolment{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e.Targets = slices.SortedFunc(slices.Values(e.Targets), byName)
	e.Created, e.Expires = wholeSecond(e.Created), wholeSecond(e.Expires)
	if stored := m.enrolments[e.KeID]; stored != nil {
		if stored.Session != e.Session || stored.Certificate != e.Certificate ||
			stored.EnroleeID != e.EnroleeID || !slices.Equal(stored.Targets, e.Targets) {
			return mef.Enrolment{}, mef.ErrConflict
		}
		return stored.snapshot(), nil
	}
	live, newest := 0, int64(0)
	for _, other := range m.enrolments {
		if other.EnroleeID == e.EnroleeID {
			newest = max(newest, other.Generation)
			if other.fetched() && !expired(other.Expires, e.Created) {
				live++
			}
		}
	}
	if live >= maxLive {
		return mef.Enrolment{}, mef.ErrTooMany
	}
	e.Generation = newest + 1
	record := &enrolmentRecord{e, make(map[muster.FQDN]*delivery)}
	for _, target := range e.Targets {
		m.eraseOlder(e, target, func(d *delivery) bool { return d.fetches == 0 })
		record.targets[target] = &delivery{}
	}
	m.enrolments[e.KeID] = record
	for id, other := range m.enrolments {
		if other.EnroleeID == e.EnroleeID && other.Generation <= e.Generation-int64(maxLive) && !other.fetched() {
			delete(m.enrolments, id)
		}
	}
	return record.snapshot(), nil
}

// fetched reports whether any MAF has the key.
func (r *enrolmentRecord) fetched() bool {
	for _, d := range r.targets {
		if d.fetches > 0 {
			return true
		}
	}
	return false
}

// eraseOlder erases the rows for one target in the Enrolee's enrolments before e.
func (m *Memory) eraseOlder(e mef.Enrolment, target muster.FQDN, which func(*delivery) bool) {
	for _, other := range m.enrolments {
		if other.EnroleeID == e.EnroleeID && other.Generation < e.Generation {
			if d := other.targets[target]; d != nil && d.gone == "" && which(d) {
				d.gone = mef.EnrolmentSuperseded
			}
		}
	}
}

// FetchEnrolment is mef.Store's.
func (m *Memory) FetchEnrolment(ctx context.Context, f mef.Fetch) (mef.Enrolment, error) {
	if err := ctx.Err(); err != nil {
		return mef.Enrolment{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := wholeSecond(f.Now)
	record := m.enrolments[f.KeID]
	if record == nil || record.targets[f.MAF] == nil || expired(record.Expires, now) {
		return mef.Enrolment{}, mef.ErrUnknown
	}
	d := record.targets[f.MAF]
	if d.gone != "" || d.fetches >= f.Max || d.fetches > 0 && now.After(d.first.Add(f.Window)) {
		return mef.Enrolment{}, mef.ErrUnknown
	}
	if d.fetches == 0 {
		d.first = now
	}
	d.fetches++
	m.eraseOlder(record.Enrolment, f.MAF, func(*delivery) bool { return true })
	e := record.snapshot()
	e.Targets = []muster.FQDN{f.MAF}
	return e, nil
}

// EnrolmentFor is mef.Store's.
func (m *Memory) EnrolmentFor(ctx context.Context, id muster.KeID, maf muster.FQDN) (mef.Enrolment, error) {
	if err := ctx.Err(); err != nil {
		return mef.Enrolment{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	record := m.enrolments[id]
	if record == nil || record.targets[maf] == nil {
		return mef.Enrolment{}, mef.ErrUnknown
	}
	e := record.snapshot()
	e.Targets, e.Ke = []muster.FQDN{maf}, muster.Ke{}
	return e, nil
}

// EnrolmentOf is mef.Store's.
func (m *Memory) EnrolmentOf(ctx context.Context, enrolee muster.EnroleeID, session muster.Digest, now time.Time) (mef.Enrolment, error) {
	if err := ctx.Err(); err != nil {
		return mef.Enrolment{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, record := range m.enrolments {
		if record.EnroleeID == enrolee && record.Session == session && !expired(record.Expires, now) {
			return record.snapshot(), nil
		}
	}
	return mef.Enrolment{}, mef.ErrUnknown
}

// EraseEnrolment is mef.Store's.
func (m *Memory) EraseEnrolment(ctx context.Context, id muster.KeID, target muster.FQDN) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	record := m.enrolments[id]
	if record == nil || record.targets[target] == nil {
		return mef.ErrUnknown
	}
	if d := record.targets[target]; d.gone == "" {
		d.gone = mef.EnrolmentErased
	}
	return nil
}

// Sweep is mef.Store's.
func (m *Memory) Sweep(ctx context.Context, now time.Time, window, grace time.Duration, limit int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	swept := 0
	for id, record := range m.enrolments {
		for target, d := range record.targets {
			if swept >= limit {
				return swept, nil
			}
			switch {
			case expired(record.Expires, now.Add(-grace)):
				delete(record.targets, target)
			case d.gone == "" && expired(record.Expires, now):
				d.gone = mef.EnrolmentExpired
			case d.gone == "" && d.fetches > 0 && now.After(d.first.Add(window)):
				d.gone = mef.EnrolmentErased
			default:
				continue
			}
			swept++
		}
		if len(record.targets) == 0 {
			delete(m.enrolments, id)
		}
	}
	return swept, nil
}

func (r *credentialRecord) usableByKmID(now time.Time) bool {
	return r.gone == "" && !expired(r.Expires, now)
}

func (r *credentialRecord) usableByKeID(now time.Time) bool {
	return r.usableByKmID(now) && !r.activated && !expired(r.KeIDUntil, now)
}

// PutCredential is maf.Store's.
func (m *Memory) PutCredential(ctx context.Context, c maf.Credential) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.credentials {
		if r.KeID != c.KeID && r.KmID != c.KmID {
			continue
		}
		same := r.KeID == c.KeID && r.KmID == c.KmID && r.EnroleeID == c.EnroleeID
		if !same || !r.Km.IsZero() && !r.Km.Equal(c.Km) {
			return maf.ErrConflict
		}
		return nil
	}
	c.Created, c.Expires, c.KeIDUntil = wholeSecond(c.Created), wholeSecond(c.Expires), wholeSecond(c.KeIDUntil)
	generation := int64(1)
	for _, r := range m.credentials {
		if r.EnroleeID == c.EnroleeID {
			generation = max(generation, r.generation+1)
		}
	}
	m.credentials = append(m.credentials, &credentialRecord{Credential: c, generation: generation})
	return nil
}

// find returns the first credential that the function accepts, or nil.
func (m *Memory) find(accept func(*credentialRecord) bool) *credentialRecord {
	if i := slices.IndexFunc(m.credentials, accept); i >= 0 {
		return m.credentials[i]
	}
	return nil
}

func (m *Memory) credential(ctx context.Context, accept func(*credentialRecord) bool) (maf.Credential, error) {
	if err := ctx.Err(); err != nil {
		return maf.Credential{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.find(accept); r != nil {
		return r.Credential, nil
	}
	return maf.Credential{}, maf.ErrUnknown
}

// CredentialByKeID is maf.Store's.
func (m *Memory) CredentialByKeID(ctx context.Context, id muster.KeID, now time.Time) (maf.Credential, error) {
	usable := false
	c, err := m.credential(ctx, func(r *credentialRecord) bool {
		usable = r.usableByKeID(now)
		return r.KeID == id
	})
	if err == nil && !usable {
		return maf.Credential{}, maf.ErrRetired
	}
	return c, err
}

// CredentialByKmID is maf.Store's.
func (m *Memory) CredentialByKmID(ctx context.Context, id muster.KmID, now time.Time) (maf.Credential, error) {
	return m.credential(ctx, func(r *credentialRecord) bool { return r.KmID == id && r.usableByKmID(now) })
}

// retire ends a credential that has not ended yet, and its KeID at the latest now.
func (r *credentialRecord) retire(why maf.CredentialState, now time.Time) {
	if r.gone != "" {
		return
	}
	r.gone, r.Km = why, muster.Km{}
	r.endKeID(now)
}

func (r *credentialRecord) endKeID(until time.Time) {
	if until.Before(r.KeIDUntil) {
		r.KeIDUntil = until
	}
}

// ActivateKmID is maf.Store's.
func (m *Memory) ActivateKmID(ctx context.Context, id muster.KmID, now time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.find(func(r *credentialRecord) bool { return r.KmID == id && r.usableByKmID(now) })
	if r == nil {
		return maf.ErrUnknown
	}
	if r.activated {
		return nil
	}
	r.activated = true
	now = wholeSecond(now)
	r.endKeID(now)
	for _, older := range m.credentials {
		if older == r {
			break
		}
		if older.EnroleeID == r.EnroleeID {
			older.retire(maf.CredentialSuperseded, now)
		}
	}
	return nil
}

// LimitKeID is maf.Store's.
func (m *Memory) LimitKeID(ctx context.Context, id muster.KeID, until time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.find(func(r *credentialRecord) bool { return r.KeID == id })
	if r == nil {
		return maf.ErrUnknown
	}
	r.endKeID(wholeSecond(until))
	return nil
}

// SweepCredentials is maf.Store's.
func (m *Memory) SweepCredentials(ctx context.Context, now time.Time, grace time.Duration, limit int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	swept := 0
	m.credentials = slices.DeleteFunc(m.credentials, func(r *credentialRecord) bool {
		forget := expired(r.Expires, now.Add(-grace))
		erase := !forget && expired(r.Expires, now) && !r.Km.IsZero()
		if swept >= limit || !forget && !erase {
			return false
		}
		swept++
		r.retire(maf.CredentialExpired, r.KeIDUntil)
		return forget
	})
	return swept, nil
}
