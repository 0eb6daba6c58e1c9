package tef

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
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
	// Export makes the key that the client registers without a value, from the
	// session. It is nil for a client that cannot register keys.
	Export func(ctx context.Context, usage muster.SUID, targets []string) (ExportedKey, error)
	// Permit says why the client may register no key of a usage for these targets;
	// nil where there is no such rule.
	Permit func(usage muster.SUID, targets []string) error
	// Enrolled returns the key of an enrolment for the client as its target. It is
	// nil for a client that is none.
	Enrolled func(ctx context.Context, id KeyID) (KeyRegistration, error)
	// Withdraw ends the delivery of an enrolment that a registration without a key
	// refers to. It is nil where there are none.
	Withdraw func(ctx context.Context, id KeyID, target string) error
}

// An ExportedKey is what both ends of a session have exported alike, or derived
// from what they have exported.
type ExportedKey struct {
	Relative [muster.RelativeSize]byte
	Key      muster.Kc // absent where the function derives it when the target asks
	Latest   time.Time // the end of what it was made from
}

// A Service answers the requests that a MEF and a MAF have in common. Its fields
// must not be changed after the first request; its methods may be called by many
// goroutines at once.
type Service struct {
	Party Party
	FQDN  muster.FQDN
	Wire  *primitive.Wire
	Store Store
	Keys  KeyStore
	// Commands is nil on a MAF, whose clients get none, and RetryDuration is what a
	// client is told for which there is no command.
	Commands      CommandStore
	RetryDuration time.Duration
	// Administrators are the stakeholders for which every client may register, and
	// Stakeholders those that admit some clients or have configurations for them.
	Administrators []muster.FQDN
	Stakeholders   []Stakeholder
	// MaxKeys is how many unexpired keys a client may have registered.
	MaxKeys int
	// Rand is the source of identifiers. It is read by several goroutines.
	Rand io.Reader
	// FetchWindow is how long after the first time a MAF is given a Master Credential
	// again that its Enrolee has registered, and MaxFetches how often in all.
	FetchWindow time.Duration
	MaxFetches  int
	// Withheld says why a registered key is not handed out any more, and nothing if
	// it is. It may be nil.
	Withheld func(r KeyRegistration) (reason string)
}

// Serve answers a request of a client that its session has authenticated.
//
// TS-0003 8.3.5.2, 8.8
func (s *Service) Serve(ctx context.Context, client Client, r *primitive.Request, now time.Time) (*primitive.Response, error) {
	if !client.is(r.From) {
		return nil, muster.Refuse(muster.CodeOriginMismatch, "the originator %q is not %q, which the session authenticated", r.From, client.Identity)
	}
	ids, ok := s.Wire.ParseTo(r.To, s.FQDN.String())
	switch {
	case !ok:
		return nil, &primitive.Error{Status: primitive.NotFound}
	case len(ids) == 0:
		return s.serveBase(ctx, client, r, now)
	case len(ids) == 1:
		if id, ok := parseResource(ids[0], s.FQDN); ok {
			return s.serveKey(ctx, client, id, r, now)
		}
	}
	stored, err := s.Store.Registration(ctx, s.FQDN, client.ID, ids[0], now)
	if err != nil {
		return nil, refuseStore(err)
	}
	if len(ids) == 1 {
		return s.serveRegistration(ctx, client, r, stored, now)
	}
	switch ids[1] {
	case primitive.NameConfiguration:
		return s.serveConfiguration(r, stored)
	case primitive.NameCommand:
		return s.serveCommand(ctx, r, stored, now)
	}
	return nil, &primitive.Error{Status: primitive.NotFound}
}

// is compares identities, so that two spellings of an Enrolee-ID in Unicode are one.
func (c Client) is(from string) bool {
	if id, err := muster.ParseEnroleeID(from); err == nil && !c.ID.IsZero() {
		return id == c.ID
	}
	return from != "" && from == c.Identity
}

func (s *Service) serveBase(ctx context.Context, client Client, r *primitive.Request, now time.Time) (*primitive.Response, error) {
	switch r.Operation {
	case primitive.Retrieve:
		return s.retrieveBase()
	case primitive.Create:
		switch r.ResourceType {
		case s.Wire.Type(s.Party.Registration):
			return s.create(ctx, client, r, now)
		case s.Wire.Type(primitive.KindSymmKeyReg):
			return s.createKey(ctx, client, r, now)
		}
		return nil, &primitive.Error{Status: primitive.InvalidChildResourceType}
	}
	return nil, &primitive.Error{Status: primitive.OperationNotAllowed}
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
//
// TS-0003 8.3.5.2.3, 8.8.2.3
func (s *Service) create(ctx context.Context, client Client, r *primitive.Request, now time.Time) (*primitive.Response, error) {
	if client.ID.IsZero() {
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
		return nil, badAttribute(primitive.FQDN, "is not that of this function")
	case !s.admits(client.ID, admin):
		return nil, muster.Refuse(muster.CodeRequestNotAllowed, "%s may not register for %s: it is not among the administrators", client.Identity, admin)
	}
	expires, err := expiry(wanted, client.Expires, client.Expires, now)
	if err != nil {
		return nil, err
	}
	labels, _ := primitive.Get[[]string](wanted, primitive.Labels)
	now = now.Truncate(time.Second)
	stored, err := s.Store.PutRegistration(ctx, ClientRegistration{
		ID: RegistrationID(client.ID, admin), Function: s.FQDN, ClientID: client.ID, AdminFQDN: admin, Labels: labels,
		AssignedSymmKeyID: client.KmID, Created: now, Modified: now, Expires: expires,
	})
	if err != nil {
		return nil, refuseStore(err)
	}
	response, err := s.respond(ctx, primitive.Created, r, stored)
	if err != nil {
		return nil, err
	}
	response.Location = s.Wire.To(stored.ID)
	return response, nil
}

// RegistrationID returns the identifier that a function of Muster gives to the
// registration of a client for an administrating stakeholder.
func RegistrationID(client muster.EnroleeID, admin muster.FQDN) string {
	digest := muster.DigestOf([]byte(client.String() + " " + admin.String())) // an Enrolee-ID has no space
	return hex.EncodeToString(digest[:12])
}

// expiry is the time that a client asked for, or the fallback, never beyond a
// limit that is not later than the end of its credential (TS-0003 10.7).
func expiry(wanted *primitive.Resource, fallback, limit, now time.Time) (time.Time, error) {
	asked, ok := primitive.Get[time.Time](wanted, primitive.ExpirationTime)
	switch {
	case !ok:
		asked = fallback
	case !asked.After(now):
		return time.Time{}, badAttribute(primitive.ExpirationTime, "is over")
	}
	if asked.After(limit) {
		asked = limit
	}
	return asked.Truncate(time.Second), nil
}

func badAttribute(a primitive.Attribute, fault string) error {
	return &primitive.Error{Status: primitive.BadRequest, Detail: "attribute \"" + string(a) + "\" " + fault}
}

func (s *Service) serveRegistration(ctx context.Context, client Client, r *primitive.Request, stored ClientRegistration, now time.Time) (*primitive.Response, error) {
	switch r.Operation {
	case primitive.Retrieve:
		return s.respond(ctx, primitive.OK, r, stored)
	case primitive.Update:
		return s.update(ctx, client, r, stored, now)
	case primitive.Delete:
		if err := s.Store.DeleteRegistration(ctx, s.FQDN, client.ID, stored.ID); err != nil {
			return nil, refuseStore(err)
		}
		return &primitive.Response{Status: primitive.Deleted}, nil
	}
	return nil, &primitive.Error{Status: primitive.OperationNotAllowed}
}

// update changes what the client may change of its registration.
//
// TS-0003 8.3.5.2.5, 8.8.2.5
func (s *Service) update(ctx context.Context, client Client, r *primitive.Request, stored ClientRegistration, now time.Time) (*primitive.Response, error) {
	wanted, err := s.Wire.Decode(s.Party.Registration, primitive.Update, r.Content)
	if err != nil {
		return nil, err
	}
	if !s.admits(client.ID, stored.AdminFQDN) {
		return nil, muster.Refuse(muster.CodeRequestNotAllowed, "%s may not be registered for %s any more", client.Identity, stored.AdminFQDN)
	}
	if stored.Expires, err = expiry(wanted, stored.Expires, client.Expires, now); err != nil {
		return nil, err
	}
	if wanted.Has(primitive.Labels) {
		stored.Labels, _ = primitive.Get[[]string](wanted, primitive.Labels)
	}
	stored.AssignedSymmKeyID, stored.Modified = client.KmID, now.Truncate(time.Second)
	if stored, err = s.Store.PutRegistration(ctx, stored); err != nil {
		return nil, refuseStore(err)
	}
	return s.respond(ctx, primitive.Updated, r, stored)
}

// respond shows a registration, and by a child reference that a command waits.
func (s *Service) respond(ctx context.Context, status primitive.Status, r *primitive.Request, stored ClientRegistration) (*primitive.Response, error) {
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
	if err := s.announce(ctx, resource, stored); err != nil {
		return nil, err
	}
	content, err := s.Wire.Encode(resource)
	return &primitive.Response{Status: status, Content: content}, err
}

// admits reports whether a client may register for a stakeholder.
func (s *Service) admits(client muster.EnroleeID, admin muster.FQDN) bool {
	if slices.Contains(s.Administrators, admin) {
		return true
	}
	for _, stakeholder := range s.Stakeholders {
		if stakeholder.FQDN == admin && (stakeholder.Admits == nil || stakeholder.Admits(client)) {
			return true
		}
	}
	return false
}

// refuseStore turns a store's sentinels into what a client learns.
func refuseStore(err error) error {
	switch {
	case errors.Is(err, ErrUnknown):
		return &primitive.Error{Status: primitive.NotFound}
	case errors.Is(err, ErrConflict):
		return &primitive.Error{Status: primitive.Conflict}
	case errors.Is(err, ErrTooMany):
		return muster.Refuse(muster.CodeRequestNotAllowed, "%w", err)
	case errors.Is(err, ErrBusy):
		return muster.Refuse(muster.CodeBusy, "%w", err)
	default:
		return err
	}
}
