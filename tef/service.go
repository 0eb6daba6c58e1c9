package tef

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"muster"
	"muster/primitive"
)

// A Client is who sends a request, as its session's credential says.
type Client struct {
	// Identity is what the originator of its requests must be: an Enrolee-ID, or
	// the FQDN of a MAF.
	Identity string
	// ID is the Enrolee-ID, and zero for a client that cannot register.
	ID muster.EnroleeID
	// KmID is assigned to the client in its registration; zero on a MEF.
	KmID muster.KmID
	// Expires is when the credential ends, and with it each registration.
	Expires time.Time
}

// A Service answers the requests that a MEF and a MAF have in common. Its fields
// must not be changed after the first request; its methods may be called by many
// goroutines at once.
type Service struct {
	Party Party
	FQDN  muster.FQDN
	Wire  *primitive.Wire
	Store Store
	// Administrators are the stakeholders for which clients may register.
	Administrators []muster.FQDN
}

// Serve answers a request of a client that its session has authenticated.
//
// TS-0003 8.3.5.2.3, 8.8.2.3
func (s *Service) Serve(ctx context.Context, client Client, r *primitive.Request, now time.Time) (*primitive.Response, error) {
	if !client.is(r.From) {
		return nil, muster.Refuse(muster.CodeOriginMismatch, "the originator %q is not %q, which the session authenticated", r.From, client.Identity)
	}
	ids, ok := s.Wire.ParseTo(r.To, s.FQDN.String())
	switch {
	case !ok || len(ids) > 1:
		return nil, &primitive.Error{Status: primitive.NotFound}
	case len(ids) == 0 && r.Operation == primitive.Retrieve:
		return s.retrieveBase()
	case len(ids) == 0 && r.Operation == primitive.Create:
		return s.create(ctx, client, r, now)
	case len(ids) == 0:
		return nil, &primitive.Error{Status: primitive.OperationNotAllowed}
	}
	stored, err := s.Store.Registration(ctx, s.FQDN, ids[0], now)
	if err == nil && stored.ClientID != client.ID {
		err = ErrUnknown // another client's registration does not exist for this one
	}
	if err != nil {
		return nil, refuseStore(err)
	}
	switch r.Operation {
	case primitive.Retrieve:
		return s.respond(primitive.OK, r, stored)
	case primitive.Update:
		return s.update(ctx, client, r, stored, now)
	case primitive.Delete:
		if err := s.Store.DeleteRegistration(ctx, s.FQDN, stored.ID); err != nil {
			return nil, refuseStore(err)
		}
		return &primitive.Response{Status: primitive.Deleted}, nil
	default:
		return nil, &primitive.Error{Status: primitive.OperationNotAllowed}
	}
}

// is compares identities, so that two spellings of an Enrolee-ID in Unicode are one.
func (c Client) is(from string) bool {
	if id, err := muster.ParseEnroleeID(from); err == nil && !c.ID.IsZero() {
		return id == c.ID
	}
	return from != "" && from == c.Identity
}

func (s *Service) retrieveBase() (*primitive.Response, error) {
	base := primitive.NewResource(s.Party.Base).
		Set(primitive.ResourceType, int64(s.Wire.Type(s.Party.Base))).
		Set(primitive.FQDN, s.FQDN).
		Set(primitive.SupportedReleaseVersions, primitive.Versions())
	content, err := s.Wire.Encode(base)
	return &primitive.Response{Status: primitive.OK, Content: content}, err
}

// create registers the client for an administrating stakeholder. Its identifier
// follows from both, so that a client whose answer was lost registers again and
// finds one registration.
func (s *Service) create(ctx context.Context, client Client, r *primitive.Request, now time.Time) (*primitive.Response, error) {
	switch {
	case r.ResourceType != s.Wire.Type(s.Party.Registration):
		return nil, &primitive.Error{Status: primitive.InvalidChildResourceType}
	case client.ID.IsZero():
		return nil, muster.Refuse(muster.CodeRequestNotAllowed, "%s is not an Enrolee and cannot register", client.Identity)
	}
	wanted, err := s.Wire.Decode(s.Party.Registration, primitive.Create, r.Content)
	if err != nil {
		return nil, err
	}
	admin, _ := primitive.Get[muster.FQDN](wanted, primitive.AdminFQDN)
	function, _ := primitive.Get[muster.FQDN](wanted, primitive.FQDN)
	switch {
	case function != s.FQDN:
		return nil, &primitive.Error{Status: primitive.BadRequest, Detail: "attribute \"fqdn\" is not that of this function"}
	case !slices.Contains(s.Administrators, admin):
		return nil, muster.Refuse(muster.CodeRequestNotAllowed, "%s may not register for %s: it is not among the administrators", client.Identity, admin)
	}
	expires, err := expiry(wanted, client.Expires, client, now)
	if err != nil {
		return nil, err
	}
	labels, _ := primitive.Get[[]string](wanted, primitive.Labels)
	now = now.Truncate(time.Second)
	stored, err := s.Store.PutRegistration(ctx, ClientRegistration{
		ID: registrationID(client.ID, admin), Function: s.FQDN, ClientID: client.ID, AdminFQDN: admin, Labels: labels,
		AssignedSymmKeyID: client.KmID, Created: now, Modified: now, Expires: expires,
	})
	if err != nil {
		return nil, refuseStore(err)
	}
	response, err := s.respond(primitive.Created, r, stored)
	if err != nil {
		return nil, err
	}
	response.Location = s.Wire.To(stored.ID)
	return response, nil
}

func registrationID(client muster.EnroleeID, admin muster.FQDN) string {
	digest := muster.DigestOf([]byte(client.String() + " " + admin.String())) // an Enrolee-ID has no space
	return hex.EncodeToString(digest[:12])
}

// expiry is the time that a client asked for, or the fallback, never beyond the
// end of its credential (TS-0003 10.7).
func expiry(wanted *primitive.Resource, fallback time.Time, client Client, now time.Time) (time.Time, error) {
	asked, ok := primitive.Get[time.Time](wanted, primitive.ExpirationTime)
	switch {
	case !ok:
		asked = fallback
	case !asked.After(now):
		return time.Time{}, &primitive.Error{Status: primitive.BadRequest, Detail: "attribute \"expirationTime\" is over"}
	}
	if asked.After(client.Expires) {
		asked = client.Expires
	}
	return asked.Truncate(time.Second), nil
}

func (s *Service) update(ctx context.Context, client Client, r *primitive.Request, stored ClientRegistration, now time.Time) (*primitive.Response, error) {
	wanted, err := s.Wire.Decode(s.Party.Registration, primitive.Update, r.Content)
	if err != nil {
		return nil, err
	}
	if stored.Expires, err = expiry(wanted, stored.Expires, client, now); err != nil {
		return nil, err
	}
	if wanted.Has(primitive.Labels) {
		stored.Labels, _ = primitive.Get[[]string](wanted, primitive.Labels)
	}
	stored.AssignedSymmKeyID, stored.Modified = client.KmID, now.Truncate(time.Second)
	if stored, err = s.Store.PutRegistration(ctx, stored); err != nil {
		return nil, refuseStore(err)
	}
	return s.respond(primitive.Updated, r, stored)
}

func (s *Service) respond(status primitive.Status, r *primitive.Request, stored ClientRegistration) (*primitive.Response, error) {
	if r.ResultContent == primitive.ResultNothing {
		return &primitive.Response{Status: status}, nil
	}
	resource := primitive.NewResource(s.Party.Registration).
		Set(primitive.ResourceID, stored.ID).
		Set(primitive.ResourceType, int64(s.Wire.Type(s.Party.Registration))).
		Set(primitive.CreationTime, stored.Created).
		Set(primitive.LastModifiedTime, stored.Modified).
		Set(primitive.ExpirationTime, stored.Expires).
		Set(primitive.AdminFQDN, stored.AdminFQDN).
		Set(primitive.FQDN, s.FQDN).
		Set(primitive.ClientID, stored.ClientID.String())
	if len(stored.Labels) > 0 {
		resource.Set(primitive.Labels, stored.Labels)
	}
	if !stored.AssignedSymmKeyID.IsZero() {
		resource.Set(primitive.AssignedSymmKeyID, stored.AssignedSymmKeyID.String())
	}
	content, err := s.Wire.Encode(resource)
	return &primitive.Response{Status: status, Content: content}, err
}

// refuseStore turns a store's sentinels into what a client learns.
func refuseStore(err error) error {
	switch {
	case errors.Is(err, ErrUnknown):
		return &primitive.Error{Status: primitive.NotFound}
	case errors.Is(err, ErrConflict):
		return &primitive.Error{Status: primitive.Conflict}
	case errors.Is(err, ErrBusy):
		return muster.Refuse(muster.CodeBusy, "%w", err)
	default:
		return err
	}
}
