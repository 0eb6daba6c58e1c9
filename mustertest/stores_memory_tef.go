package mustertest

import (
	"context"
	"slices"
	"strings"
	"time"

	"muster"
	"muster/tef"
)

func registrationKey(function muster.FQDN, id string) string { return function.String() + "\x00" + id }

// PutRegistration is tef.Store's.
func (m *Memory) PutRegistration(ctx context.Context, r tef.ClientRegistration) (tef.ClientRegistration, error) {
	if err := ctx.Err(); err != nil {
		return tef.ClientRegistration{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r.Created, r.Modified, r.Expires = wholeSecond(r.Created), wholeSecond(r.Modified), wholeSecond(r.Expires)
	r.Labels = append([]string(nil), r.Labels...)
	key := registrationKey(r.Function, r.ID)
	if stored, ok := m.registrations[key]; ok {
		if stored.ClientID != r.ClientID || stored.AdminFQDN != r.AdminFQDN {
			return tef.ClientRegistration{}, tef.ErrConflict
		}
		r.Created = stored.Created
	}
	m.registrations[key] = r
	r.Labels = slices.Clone(r.Labels)
	return r, nil
}

// Registration is tef.Store's.
func (m *Memory) Registration(ctx context.Context, function muster.FQDN, client muster.EnroleeID, id string, now time.Time) (tef.ClientRegistration, error) {
	if err := ctx.Err(); err != nil {
		return tef.ClientRegistration{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.registrations[registrationKey(function, id)]
	if !ok || r.ClientID != client || expired(r.Expires, now) {
		return tef.ClientRegistration{}, tef.ErrUnknown
	}
	r.Labels = slices.Clone(r.Labels)
	return r, nil
}

// DeleteRegistration is tef.Store's.
func (m *Memory) DeleteRegistration(ctx context.Context, function muster.FQDN, client muster.EnroleeID, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := registrationKey(function, id)
	if r, ok := m.registrations[key]; !ok || r.ClientID != client {
		return tef.ErrUnknown
	}
	delete(m.registrations, key)
	return nil
}

// Registrations is tef.Store's.
func (m *Memory) Registrations(ctx context.Context, q tef.RegistrationQuery) ([]tef.ClientRegistration, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var page []tef.ClientRegistration
	for _, r := range m.registrations {
		if r.Function == q.Function && (q.AdminFQDN.IsZero() || r.AdminFQDN == q.AdminFQDN) && r.ID > q.After &&
			strings.HasPrefix(r.ClientID.String(), q.ClientPrefix) && !expired(r.Expires, q.Now) {
			r.Labels = slices.Clone(r.Labels)
			page = append(page, r)
		}
	}
	slices.SortFunc(page, func(a, b tef.ClientRegistration) int { return strings.Compare(a.ID, b.ID) })
	return page[:min(len(page), q.Limit)], nil
}

// SweepRegistrations is tef.Store's.
func (m *Memory) SweepRegistrations(ctx context.Context, now time.Time, limit int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	swept := 0
	for key, r := range m.registrations {
		if swept < limit && expired(r.Expires, now) {
			delete(m.registrations, key)
			swept++
		}
	}
	return swept, nil
}

type keyRecord struct {
	tef.KeyRegistration
	deleted bool
	delivery
}

// snapshot returns a copy that the caller may change.
func (r *keyRecord) snapshot() tef.KeyRegistration {
	k := r.KeyRegistration
	k.Targets, k.Labels = slices.Clone(k.Targets), slices.Clone(k.Labels)
	return k
}

func (r *keyRecord) live(now time.Time) bool { return !r.deleted && !expired(r.Expires, now) }

// kept returns the registration as a store keeps it.
func kept(r tef.KeyRegistration) tef.KeyRegistration {
	r.Created, r.Modified, r.Expires = wholeSecond(r.Created), wholeSecond(r.Modified), wholeSecond(r.Expires)
	if !r.Latest.IsZero() {
		r.Latest = wholeSecond(r.Latest)
	}
	r.Targets = slices.Sorted(slices.Values(r.Targets))
	r.Labels = append([]string(nil), r.Labels...)
	return r
}

// CreateKey is tef.KeyStore's.
func (m *Memory) CreateKey(ctx context.Context, r tef.KeyRegistration, maxLive int) (tef.KeyRegistration, error) {
	if err := ctx.Err(); err != nil {
		return tef.KeyRegistration{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r = kept(r)
	if stored := m.keys[r.ID]; stored != nil {
		sameKey := stored.Key.Equal(r.Key) || stored.Key.IsZero() && r.Key.IsZero()
		if stored.deleted || stored.Source != r.Source || stored.AdminFQDN != r.AdminFQDN || stored.Usage != r.Usage || !sameKey {
			return tef.KeyRegistration{}, tef.ErrConflict
		}
		return stored.snapshot(), nil
	}
	live := 0
	for _, other := range m.keys {
		if other.Source == r.Source && other.live(r.Created) {
			live++
		}
	}
	if live >= maxLive {
		return tef.KeyRegistration{}, tef.ErrTooMany
	}
	record := &keyRecord{KeyRegistration: r}
	m.keys[r.ID] = record
	return record.snapshot(), nil
}

// Key is tef.KeyStore's.
func (m *Memory) Key(ctx context.Context, id tef.KeyID, identity string, now time.Time) (tef.KeyRegistration, error) {
	if err := ctx.Err(); err != nil {
		return tef.KeyRegistration{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.keys[id]
	if r == nil || !r.live(now) || r.Source.String() != identity && !slices.Contains(r.Targets, identity) {
		return tef.KeyRegistration{}, tef.ErrUnknown
	}
	return r.snapshot(), nil
}

// FetchKey is tef.KeyStore's.
func (m *Memory) FetchKey(ctx context.Context, f tef.KeyFetch) (tef.KeyRegistration, error) {
	if err := ctx.Err(); err != nil {
		return tef.KeyRegistration{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r, now := m.keys[f.ID], wholeSecond(f.Now)
	if r == nil || !r.live(now) || !slices.Contains(r.Targets, f.Target) || r.fetches >= f.Max || r.fetches > 0 && now.After(r.first.Add(f.Window)) {
		return tef.KeyRegistration{}, tef.ErrUnknown
	}
	if r.fetches++; r.fetches == 1 {
		r.first = now
	}
	return r.snapshot(), nil
}

// UpdateKey is tef.KeyStore's.
func (m *Memory) UpdateKey(ctx context.Context, r tef.KeyRegistration) (tef.KeyRegistration, error) {
	if err := ctx.Err(); err != nil {
		return tef.KeyRegistration{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r = kept(r)
	stored := m.keys[r.ID]
	if stored == nil || stored.Source != r.Source || !stored.live(r.Modified) {
		return tef.KeyRegistration{}, tef.ErrUnknown
	}
	stored.Targets, stored.Labels, stored.Modified, stored.Expires = r.Targets, r.Labels, r.Modified, r.Expires
	return stored.snapshot(), nil
}

// DeleteKey is tef.KeyStore's.
func (m *Memory) DeleteKey(ctx context.Context, id tef.KeyID, source muster.EnroleeID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.keys[id]
	if r == nil || r.Source != source || r.deleted {
		return tef.ErrUnknown
	}
	r.deleted, r.Key = true, muster.Kc{}
	return nil
}

// SweepKeys is tef.KeyStore's.
func (m *Memory) SweepKeys(ctx context.Context, now time.Time, limit int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	swept := 0
	for id, r := range m.keys {
		if swept < limit && expired(r.Expires, now) {
			delete(m.keys, id)
			swept++
		}
	}
	return swept, nil
}

// QueueCommand is tef.CommandStore's.
func (m *Memory) QueueCommand(ctx context.Context, c tef.QueuedCommand) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	description, err := c.Description.MarshalText()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, other := range m.commands {
		if other.Function != c.Function || other.Registration != c.Registration || other.ID != c.ID {
			continue
		}
		if stored, err := other.Description.MarshalText(); err != nil || string(stored) != string(description) {
			return tef.ErrConflict
		}
		return nil
	}
	c.Created = wholeSecond(c.Created)
	c.Changed, c.Status = c.Created, 0
	m.commands = append(m.commands, c)
	return nil
}

// head returns the place of the first open command of a queue, or -1.
func (m *Memory) head(function muster.FQDN, registration string) int {
	return slices.IndexFunc(m.commands, func(c tef.QueuedCommand) bool {
		return c.Function == function && c.Registration == registration && c.Status < tef.CommandOK
	})
}

// IssueCommand is tef.CommandStore's.
func (m *Memory) IssueCommand(ctx context.Context, function muster.FQDN, registration string, now time.Time) (tef.QueuedCommand, error) {
	if err := ctx.Err(); err != nil {
		return tef.QueuedCommand{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.head(function, registration)
	if i < 0 {
		return tef.QueuedCommand{}, tef.ErrUnknown
	}
	status := tef.CommandIssued
	if m.commands[i].Status != 0 {
		status = tef.CommandReissued
	}
	m.commands[i].Status, m.commands[i].Changed = status, wholeSecond(now)
	return m.commands[i], nil
}

// ReportCommand is tef.CommandStore's.
func (m *Memory) ReportCommand(ctx context.Context, function muster.FQDN, registration, id string, status tef.CommandStatus, now time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.head(function, registration)
	if i < 0 || m.commands[i].ID != id || m.commands[i].Status == 0 {
		return tef.ErrUnknown
	}
	m.commands[i].Status, m.commands[i].Changed = status, wholeSecond(now)
	return nil
}

// CommandPending is tef.CommandStore's.
func (m *Memory) CommandPending(ctx context.Context, function muster.FQDN, registration string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.head(function, registration) >= 0, nil
}

// Commands is tef.CommandStore's.
func (m *Memory) Commands(ctx context.Context, function muster.FQDN, registration string) ([]tef.QueuedCommand, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []tef.QueuedCommand
	for _, c := range m.commands {
		if c.Function == function && c.Registration == registration {
			all = append(all, c)
		}
	}
	return all, nil
}

// SweepCommands is tef.CommandStore's.
func (m *Memory) SweepCommands(ctx context.Context, reported time.Time, limit int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	swept := 0
	m.commands = slices.DeleteFunc(m.commands, func(c tef.QueuedCommand) bool {
		old := c.Status >= tef.CommandOK && !c.Changed.After(reported) && swept < limit
		if old {
			swept++
		}
		return old
	})
	return swept, nil
}
