package tef

import (
	"errors"
	"fmt"
	"time"

	"muster"
	"muster/primitive"
)

// RetrieveBase returns the request for a function's base resource.
func RetrieveBase(wire *primitive.Wire, from, requestID string) *primitive.Request {
	return &primitive.Request{
		Operation: primitive.Retrieve, To: wire.Base(), From: from, RequestID: requestID, ReleaseVersion: releaseVersion,
	}
}

// releaseVersion is the release of the texts that Muster implements.
const releaseVersion = "3"

// CreateRegistration returns the request that registers a client: r.Function,
// r.ClientID and r.AdminFQDN are needed, r.Labels and r.Expires are optional, and
// the function assigns the rest.
//
// TS-0003 8.3.5.2.3, 8.8.2.3
func CreateRegistration(wire *primitive.Wire, party Party, requestID string, r ClientRegistration) (*primitive.Request, error) {
	resource := primitive.NewResource(party.Registration).
		Set(primitive.AdminFQDN, r.AdminFQDN).
		Set(primitive.FQDN, r.Function)
	if len(r.Labels) > 0 {
		resource.Set(primitive.Labels, r.Labels)
	}
	if !r.Expires.IsZero() {
		resource.Set(primitive.ExpirationTime, r.Expires)
	}
	content, err := wire.Encode(resource)
	return &primitive.Request{
		Operation: primitive.Create, To: wire.Base(), From: r.ClientID.String(), RequestID: requestID,
		ResourceType: wire.Type(party.Registration), ReleaseVersion: releaseVersion, Content: content,
	}, err
}

// ParseRegistration returns the registration in a function's answer. An answer
// that reports a failure is returned as a *primitive.Error.
func ParseRegistration(wire *primitive.Wire, party Party, response *primitive.Response) (ClientRegistration, error) {
	if err := response.Err(); err != nil {
		return ClientRegistration{}, err
	}
	resource, err := wire.DecodeRepresentation(party.Registration, response.Content)
	if err != nil {
		return ClientRegistration{}, err
	}
	var r ClientRegistration
	var missing error
	r.ID, _ = primitive.Get[string](resource, primitive.ResourceID)
	r.Labels, _ = primitive.Get[[]string](resource, primitive.Labels)
	r.Function, _ = primitive.Get[muster.FQDN](resource, primitive.FQDN)
	r.AdminFQDN, _ = primitive.Get[muster.FQDN](resource, primitive.AdminFQDN)
	r.Created, _ = primitive.Get[time.Time](resource, primitive.CreationTime)
	r.Modified, _ = primitive.Get[time.Time](resource, primitive.LastModifiedTime)
	children, _ := primitive.Get[[]primitive.Reference](resource, primitive.ChildResource)
	for _, child := range children {
		r.CommandWaits = r.CommandWaits || child.Type == wire.Type(primitive.KindMEFClientCmd)
	}
	var ok bool
	if r.Expires, ok = primitive.Get[time.Time](resource, primitive.ExpirationTime); !ok {
		missing = errors.Join(missing, fmt.Errorf("the answer lacks %s", primitive.ExpirationTime))
	}
	client, _ := primitive.Get[string](resource, primitive.ClientID)
	if r.ClientID, err = muster.ParseEnroleeID(client); err != nil {
		missing = errors.Join(missing, err)
	}
	if id, ok := primitive.Get[string](resource, primitive.AssignedSymmKeyID); ok {
		if r.AssignedSymmKeyID, err = muster.ParseKmID(id); err != nil {
			missing = errors.Join(missing, err)
		}
	}
	return r, missing
}
