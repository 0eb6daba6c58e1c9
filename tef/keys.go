package tef

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"muster"
	"muster/primitive"
)

// The usages of symmetric keys that a MAF distributes (TS-0004 6.3.4.2.39).
const (
	SUIDMAFForSAEF             muster.SUID = 32
	SUIDMAFForESPrim           muster.SUID = 33
	SUIDMAFForESDataEncryption muster.SUID = 34
	SUIDMAFForESDataIntegrity  muster.SUID = 35
)

// A usageRule says for whom a key of a usage may be.
type usageRule struct {
	maf  bool // the target is a MAF, else an AE or CSE
	many bool // more than one target is permitted
}

// usages are those that may be registered with a party.
//
// TS-0003 8.3.5.2.7, 8.8.2.7
func (p Party) usages() map[muster.SUID]usageRule {
	if p == MAF() {
		return map[muster.SUID]usageRule{
			SUIDMAFForSAEF: {}, SUIDMAFForESPrim: {},
			SUIDMAFForESDataEncryption: {many: true}, SUIDMAFForESDataIntegrity: {many: true},
		}
	}
	return map[muster.SUID]usageRule{
		muster.SUIDForMAF: {maf: true}, muster.SUIDForSAEF: {}, muster.SUIDForESPrim: {},
		muster.SUIDForESDataIntegrity: {many: true}, muster.SUIDForESDataEncryption: {many: true},
	}
}

// parseTargets returns targets in their canonical form, sorted, and refuses what
// the usage does not permit.
func (rule usageRule) parseTargets(wanted []string) ([]string, error) {
	if len(wanted) == 0 || len(wanted) > 1 && !rule.many {
		return nil, badAttribute(primitive.TargetIDs, fmt.Sprintf("has %d targets for this SUID", len(wanted)))
	}
	targets := make([]string, len(wanted))
	for i, text := range wanted {
		if rule.maf {
			fqdn, err := muster.ParseFQDN(text)
			if err != nil {
				return nil, badAttribute(primitive.TargetIDs, "names a target that is not the FQDN of a MAF")
			}
			targets[i] = fqdn.String()
			continue
		}
		id, err := muster.ParseEnroleeID(text)
		if err != nil {
			return nil, badAttribute(primitive.TargetIDs, "names a target that is not an Absolute AE-ID or CSE-ID")
		}
		targets[i] = id.String()
	}
	slices.Sort(targets)
	if len(slices.Compact(slices.Clone(targets))) != len(targets) {
		return nil, badAttribute(primitive.TargetIDs, "names a target twice")
	}
	return targets, nil
}

// createKey registers a key for targets: the one in the request, or one that both
// ends take from their session.
//
// TS-0003 8.3.5.2.7, 8.8.2.7
func (s *Service) createKey(ctx context.Context, client Client, r *primitive.Request, now time.Time) (*primitive.Response, error) {
	if client.Export == nil || client.ID.IsZero() {
		return nil, muster.Refuse(muster.CodeRequestNotAllowed, "%s cannot register keys", client.Identity)
	}
	wanted, err := s.Wire.Decode(primitive.KindSymmKeyReg, primitive.Create, r.Content)
	if err != nil {
		return nil, err
	}
	registration := KeyRegistration{Source: client.ID, Created: now.Truncate(time.Second), Modified: now.Truncate(time.Second)}
	registration.AdminFQDN, _ = primitive.Get[muster.FQDN](wanted, primitive.AdminFQDN)
	registration.Labels, _ = primitive.Get[[]string](wanted, primitive.Labels)
	usage, _ := primitive.Get[int64](wanted, primitive.SecurityUsage)
	registration.Usage = muster.SUID(usage)
	if registration.Targets, err = s.targets(client.ID, registration, wanted); err != nil {
		return nil, err
	}
	if err := client.permits(registration.Usage, registration.Targets); err != nil {
		return nil, err
	}
	if err := s.requireRegistration(ctx, client, registration.AdminFQDN, now); err != nil {
		return nil, err
	}
	// A time that is over is refused before the session's export is spent.
	if registration.Expires, err = expiry(wanted, client.Expires, client.Expires, now); err != nil {
		return nil, err
	}
	if err := s.keyValue(ctx, client, &registration, wanted); err != nil {
		return nil, err
	}
	stored, err := s.Keys.CreateKey(ctx, registration, s.MaxKeys)
	if err != nil {
		return nil, refuseStore(err)
	}
	response, err := s.respondKey(primitive.Created, r, stored, view{targets: true})
	if err != nil {
		return nil, err
	}
	response.Location = s.Wire.To(stored.ID.resource())
	return response, nil
}

func (c Client) permits(usage muster.SUID, targets []string) error {
	if c.Permit == nil {
		return nil
	}
	return c.Permit(usage, targets)
}

// targets returns those in a request, or, if it has none, those that the
// stakeholder has configured for the usage.
func (s *Service) targets(client muster.EnroleeID, r KeyRegistration, wanted *primitive.Resource) ([]string, error) {
	rule, ok := s.Party.usages()[r.Usage]
	if !ok {
		return nil, badAttribute(primitive.SecurityUsage, "is not one of the keys that this function distributes")
	}
	asked, given := primitive.Get[[]string](wanted, primitive.TargetIDs)
	if !given {
		configuration, _ := s.configuration(client, r.AdminFQDN)
		for _, key := range configuration.Keys {
			if key.Usage == r.Usage {
				asked = key.Targets
			}
		}
	}
	return rule.parseTargets(asked)
}

// requireRegistration refuses a client that has not registered for the stakeholder.
func (s *Service) requireRegistration(ctx context.Context, client Client, admin muster.FQDN, now time.Time) error {
	_, err := s.Store.Registration(ctx, s.FQDN, client.ID, RegistrationID(client.ID, admin), now)
	if errors.Is(err, ErrUnknown) {
		return muster.Refuse(muster.CodeRequestNotAllowed, "%s is not registered for %s", client.Identity, admin)
	}
	return refuseStore(err)
}

// keyValue gives the registration its key and identifier.
func (s *Service) keyValue(ctx context.Context, client Client, r *KeyRegistration, wanted *primitive.Resource) error {
	octets, given := primitive.Get[[]byte](wanted, primitive.KeyValue)
	if !given {
		exported, err := client.Export(ctx, r.Usage, r.Targets)
		if err != nil {
			return err
		}
		r.ID, r.Key, r.Latest = NewKeyID(exported.Relative, s.FQDN), exported.Key, exported.Latest
		if r.Expires.After(r.Latest) {
			r.Expires = r.Latest.Truncate(time.Second)
		}
		return nil
	}
	defer clear(octets)
	var err error
	if r.Key, err = muster.NewKc(octets); err != nil {
		return badAttribute(primitive.KeyValue, fmt.Sprintf("is not a key of %d octets", muster.KeySize))
	}
	var relative [muster.RelativeSize]byte
	if _, err := io.ReadFull(s.Rand, relative[:]); err != nil {
		return err
	}
	r.ID = NewKeyID(relative, s.FQDN)
	return nil
}

// serveKey answers requests for a registered key, of its source or of a target.
// For everybody else it does not exist, and the look-up is the same.
func (s *Service) serveKey(ctx context.Context, client Client, id KeyID, r *primitive.Request, now time.Time) (*primitive.Response, error) {
	if r.Operation == primitive.Retrieve {
		stored, err := s.RetrieveKey(ctx, client, id, now)
		if err != nil {
			return nil, err
		}
		target := stored.For(client.Identity)
		return s.respondKey(primitive.OK, r, stored, view{key: target, targets: stored.Source == client.ID && !client.ID.IsZero()})
	}
	stored, err := s.Keys.Key(ctx, id, client.Identity, now)
	switch {
	case errors.Is(err, ErrUnknown):
		return nil, muster.Refuse(muster.CodeKeyUnknown, "%s for %s: %w", id, client.Identity, err)
	case err != nil:
		return nil, refuseStore(err)
	case stored.Source != client.ID:
		return nil, muster.Refuse(muster.CodeRequestNotAllowed, "%s is a target of %s, not its source", client.Identity, id)
	case r.Operation == primitive.Update:
		return s.updateKey(ctx, client, r, stored, now)
	case r.Operation == primitive.Delete:
		return s.deleteKey(ctx, client, stored)
	}
	return nil, &primitive.Error{Status: primitive.OperationNotAllowed}
}

// RetrieveKey returns a key for a client that is a target of it, or what is known
// of the key for its source. A refusal does not tell whether the key exists.
//
// TS-0003 8.3.5.2.8, 8.8.2.8
func (s *Service) RetrieveKey(ctx context.Context, client Client, id KeyID, now time.Time) (KeyRegistration, error) {
	stored, err := s.Keys.Key(ctx, id, client.Identity, now)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return KeyRegistration{}, refuseStore(err)
	}
	if client.Enrolled != nil && stored.Key.IsZero() {
		enrolled, err := client.Enrolled(ctx, id)
		if err == nil && !stored.ID.IsZero() {
			stored.Key = enrolled.Key
			return stored, nil
		}
		return enrolled, err
	}
	if err == nil && s.Withheld != nil && stored.Source != client.ID {
		if reason := s.Withheld(stored); reason != "" {
			return KeyRegistration{}, muster.Refuse(muster.CodeKeyUnknown, "%s of %s is withheld: %s", id, stored.Source, reason)
		}
	}
	if err != nil {
		return KeyRegistration{}, muster.Refuse(muster.CodeKeyUnknown, "%s for %s: %w", id, client.Identity, err)
	}
	if s.Party.usages()[stored.Usage].maf && !stored.Key.IsZero() && stored.For(client.Identity) {
		return s.fetchKey(ctx, client, id, now)
	}
	return stored, nil
}

// fetchKey hands over a Master Credential that its source has brought, within the
// bounds of one that is derived.
func (s *Service) fetchKey(ctx context.Context, client Client, id KeyID, now time.Time) (KeyRegistration, error) {
	fetched, err := s.Keys.FetchKey(ctx, KeyFetch{ID: id, Target: client.Identity, Now: now, Window: s.FetchWindow, Max: s.MaxFetches})
	if errors.Is(err, ErrUnknown) {
		return KeyRegistration{}, muster.Refuse(muster.CodeKeyUnknown, "%s for %s is spent: %w", id, client.Identity, err)
	}
	return fetched, refuseStore(err)
}

// updateKey changes who may retrieve a key, and until when.
//
// TS-0003 8.3.5.2.9, 8.8.2.9
func (s *Service) updateKey(ctx context.Context, client Client, r *primitive.Request, stored KeyRegistration, now time.Time) (*primitive.Response, error) {
	wanted, err := s.Wire.Decode(primitive.KindSymmKeyReg, primitive.Update, r.Content)
	if err != nil {
		return nil, err
	}
	limit := client.Expires
	if !stored.Latest.IsZero() && stored.Latest.Before(limit) {
		limit = stored.Latest
	}
	if stored.Expires, err = expiry(wanted, stored.Expires, limit, now); err != nil {
		return nil, err
	}
	if wanted.Has(primitive.Labels) {
		stored.Labels, _ = primitive.Get[[]string](wanted, primitive.Labels)
	}
	if asked, ok := primitive.Get[[]string](wanted, primitive.TargetIDs); ok || wanted.Has(primitive.TargetIDs) {
		targets, err := s.Party.usages()[stored.Usage].parseTargets(asked)
		if err != nil {
			return nil, err
		}
		if stored.Key.IsZero() && !slices.Equal(targets, stored.Targets) {
			return nil, badAttribute(primitive.TargetIDs, "cannot change: the key is derived for its target")
		}
		if err := client.permits(stored.Usage, targets); err != nil {
			return nil, err
		}
		stored.Targets = targets
	}
	stored.Modified = now.Truncate(time.Second)
	if stored, err = s.Keys.UpdateKey(ctx, stored); err != nil {
		return nil, refuseStore(err)
	}
	return s.respondKey(primitive.Updated, r, stored, view{targets: true})
}

// deleteKey stops the distribution of a key.
//
// TS-0003 8.3.5.2.10, 8.8.2.10
func (s *Service) deleteKey(ctx context.Context, client Client, stored KeyRegistration) (*primitive.Response, error) {
	if stored.Key.IsZero() && client.Withdraw != nil && len(stored.Targets) > 0 {
		if err := client.Withdraw(ctx, stored.ID, stored.Targets[0]); err != nil {
			return nil, err
		}
	}
	if err := s.Keys.DeleteKey(ctx, stored.ID, stored.Source); err != nil {
		return nil, refuseStore(err)
	}
	return &primitive.Response{Status: primitive.Deleted}, nil
}

// A view says which of the attributes that not everybody sees are shown.
type view struct{ key, targets bool }

func (s *Service) respondKey(status primitive.Status, r *primitive.Request, stored KeyRegistration, v view) (*primitive.Response, error) {
	if r.ResultContent == primitive.ResultNothing {
		return &primitive.Response{Status: status}, nil
	}
	resource := primitive.NewResource(primitive.KindSymmKeyReg).
		Set(primitive.ResourceID, stored.ID.resource()).
		Set(primitive.ResourceType, int64(s.Wire.Type(primitive.KindSymmKeyReg))).
		Set(primitive.ExpirationTime, stored.Expires).
		Set(primitive.SecurityUsage, int64(stored.Usage)).
		Set(primitive.SourceClientID, stored.Source.String())
	if !stored.Created.IsZero() {
		resource.Set(primitive.CreationTime, stored.Created).Set(primitive.LastModifiedTime, stored.Modified)
	}
	if !stored.AdminFQDN.IsZero() {
		resource.Set(primitive.AdminFQDN, stored.AdminFQDN)
	}
	if len(stored.Labels) > 0 {
		resource.Set(primitive.Labels, stored.Labels)
	}
	if v.targets {
		resource.Set(primitive.TargetIDs, stored.Targets)
	}
	if v.key {
		resource.Set(primitive.KeyValue, stored.Key.Reveal())
	}
	content, err := s.Wire.Encode(resource)
	return &primitive.Response{Status: status, Content: content}, err
}
