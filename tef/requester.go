package tef

import (
	"context"
	"errors"
	"fmt"
	"time"

	"muster"
	"muster/primitive"
)

// A Doer sends a request over a session and returns the response to it, whatever
// its status.
type Doer interface {
	Do(ctx context.Context, r *primitive.Request) (*primitive.Response, error)
}

// A Requester is the client's end of Mmef or Mmaf: a method for each procedure,
// which returns the refusal of the other side as a *primitive.Error. Its fields
// must not be changed once it is in use; its methods may be called by as many
// goroutines as those of its Doer.
type Requester struct {
	Party    Party       // whose resources are meant
	Function muster.FQDN // the MEF or MAF
	From     string      // the client's identity: an Enrolee-ID, or the FQDN of a MAF
	Wire     *primitive.Wire
	Doer     Doer
	// RequestID returns an identifier that is not in use on the session.
	RequestID func() string
}

func (q *Requester) request(op primitive.Operation, ids ...string) *primitive.Request {
	return &primitive.Request{
		Operation: op, To: q.Wire.To(ids...), From: q.From, RequestID: q.RequestID(), ReleaseVersion: releaseVersion,
	}
}

// do sends a request that was made without an error.
func (q *Requester) do(ctx context.Context, r *primitive.Request, err error) (*primitive.Response, error) {
	if err != nil {
		return nil, err
	}
	return q.Doer.Do(ctx, r)
}

// Register registers the client for the stakeholder in r: r.AdminFQDN is needed,
// r.Labels and r.Expires are optional, and the function assigns the rest.
//
// TS-0003 8.3.5.2.3, 8.8.2.3
func (q *Requester) Register(ctx context.Context, r ClientRegistration) (ClientRegistration, error) {
	var err error
	r.Function = q.Function
	if r.ClientID, err = muster.ParseEnroleeID(q.From); err != nil {
		return ClientRegistration{}, err
	}
	request, err := CreateRegistration(q.Wire, q.Party, q.RequestID(), r)
	return q.registration(q.do(ctx, request, err))
}

func (q *Requester) registration(response *primitive.Response, err error) (ClientRegistration, error) {
	if err != nil {
		return ClientRegistration{}, err
	}
	return ParseRegistration(q.Wire, q.Party, response)
}

// Registration returns the registration with an identifier.
func (q *Requester) Registration(ctx context.Context, id string) (ClientRegistration, error) {
	return q.registration(q.do(ctx, q.request(primitive.Retrieve, id), nil))
}

// UpdateRegistration replaces the labels of a registration, unless they are nil,
// and its end, unless it is zero.
//
// TS-0003 8.3.5.2.5, 8.8.2.5
func (q *Requester) UpdateRegistration(ctx context.Context, id string, labels []string, expires time.Time) (ClientRegistration, error) {
	request, err := q.update(primitive.NewResource(q.Party.Registration), labels, nil, expires, id)
	return q.registration(q.do(ctx, request, err))
}

func (q *Requester) update(resource *primitive.Resource, labels, targets []string, expires time.Time, ids ...string) (*primitive.Request, error) {
	if labels != nil {
		resource.Set(primitive.Labels, labels)
	}
	if targets != nil {
		resource.Set(primitive.TargetIDs, targets)
	}
	if !expires.IsZero() {
		resource.Set(primitive.ExpirationTime, expires)
	}
	request := q.request(primitive.Update, ids...)
	var err error
	request.Content, err = q.Wire.Encode(resource)
	return request, err
}

// Deregister ends a registration.
//
// TS-0003 8.3.5.2.6, 8.8.2.6
func (q *Requester) Deregister(ctx context.Context, id string) error {
	return q.remove(ctx, id)
}

func (q *Requester) remove(ctx context.Context, id string) error {
	response, err := q.Doer.Do(ctx, q.request(primitive.Delete, id))
	if err != nil {
		return err
	}
	return response.Err()
}

// Configuration returns what the stakeholder of a registration wants of the client.
// Where it wants nothing, the refusal is NotFound.
//
// TS-0003 8.3.5.2.4, 8.8.2.4
func (q *Requester) Configuration(ctx context.Context, id string) (ClientConfiguration, error) {
	response, err := q.Doer.Do(ctx, q.request(primitive.Retrieve, id, primitive.NameConfiguration))
	if err != nil {
		return ClientConfiguration{}, err
	}
	return ParseConfiguration(q.Wire, response)
}

// RegisterKey registers a key for r.Targets: r.Key, or, if that is absent, the one
// that both ends take from the session, which the caller exports itself.
// r.AdminFQDN and r.Usage are needed, and r.Targets unless the stakeholder has
// configured some. The answer has the identifier, and never the key.
//
// TS-0003 8.3.5.2.7, 8.8.2.7
func (q *Requester) RegisterKey(ctx context.Context, r KeyRegistration) (KeyRegistration, error) {
	resource := primitive.NewResource(primitive.KindSymmKeyReg).
		Set(primitive.AdminFQDN, r.AdminFQDN).
		Set(primitive.SecurityUsage, int64(r.Usage))
	if len(r.Targets) > 0 {
		resource.Set(primitive.TargetIDs, r.Targets)
	}
	if len(r.Labels) > 0 {
		resource.Set(primitive.Labels, r.Labels)
	}
	if !r.Expires.IsZero() {
		resource.Set(primitive.ExpirationTime, r.Expires)
	}
	if !r.Key.IsZero() {
		octets := r.Key.Reveal()
		defer clear(octets)
		resource.Set(primitive.KeyValue, octets)
	}
	request := q.request(primitive.Create)
	request.ResourceType = q.Wire.Type(primitive.KindSymmKeyReg)
	var err error
	request.Content, err = q.Wire.Encode(resource)
	return q.key(q.do(ctx, request, err))
}

func (q *Requester) key(response *primitive.Response, err error) (KeyRegistration, error) {
	if err != nil {
		return KeyRegistration{}, err
	}
	return ParseKey(q.Wire, q.Function, response)
}

// RetrieveKey returns a key that was registered for the client, without its
// targets.
//
// TS-0003 8.3.5.2.8, 8.8.2.8
func (q *Requester) RetrieveKey(ctx context.Context, id KeyID) (KeyRegistration, error) {
	if id.Function() != q.Function {
		return KeyRegistration{}, fmt.Errorf("%s is not a key of %s", id, q.Function)
	}
	r, err := q.key(q.do(ctx, q.request(primitive.Retrieve, id.resource()), nil))
	switch {
	case err != nil:
		return KeyRegistration{}, err
	case r.ID != id || r.Key.IsZero():
		return KeyRegistration{}, fmt.Errorf("the answer has no key, or another one than %s", id)
	}
	return r, nil
}

// UpdateKey replaces the labels and the targets of a key, unless they are nil, and
// its end, unless it is zero.
//
// TS-0003 8.3.5.2.9, 8.8.2.9
func (q *Requester) UpdateKey(ctx context.Context, id KeyID, labels, targets []string, expires time.Time) (KeyRegistration, error) {
	request, err := q.update(primitive.NewResource(primitive.KindSymmKeyReg), labels, targets, expires, id.resource())
	return q.key(q.do(ctx, request, err))
}

// DeregisterKey stops the distribution of a key.
//
// TS-0003 8.3.5.2.10, 8.8.2.10
func (q *Requester) DeregisterKey(ctx context.Context, id KeyID) error {
	return q.remove(ctx, id.resource())
}

// Command asks a MEF what to do next. A command whose arguments cannot be read
// comes with its identifier and an error that wraps ErrArguments.
//
// TS-0003 8.3.9.2
func (q *Requester) Command(ctx context.Context, registrationID string) (Command, error) {
	response, err := q.Doer.Do(ctx, q.request(primitive.Retrieve, registrationID, primitive.NameCommand))
	if err != nil {
		return Command{}, err
	}
	return ParseCommand(q.Wire, response)
}

// ReportCommand tells a MEF what became of a command, and returns the next one as
// Command does.
//
// TS-0003 8.3.9.3
func (q *Requester) ReportCommand(ctx context.Context, registrationID, id string, status CommandStatus) (Command, error) {
	request := q.request(primitive.Update, registrationID, primitive.NameCommand)
	var err error
	request.Content, err = q.Wire.Encode(primitive.NewResource(primitive.KindMEFClientCmd).
		Set(primitive.CommandID, id).Set(primitive.CommandStatusCode, int64(status)))
	response, err := q.do(ctx, request, err)
	if err != nil {
		return Command{}, err
	}
	return ParseCommand(q.Wire, response)
}

// ParseKey returns the registered key in the answer of a function, with the key
// itself if the answer has it. An answer that reports a failure is returned as a
// *primitive.Error. No error shows a key.
func ParseKey(wire *primitive.Wire, function muster.FQDN, response *primitive.Response) (KeyRegistration, error) {
	if err := response.Err(); err != nil {
		return KeyRegistration{}, err
	}
	resource, err := wire.DecodeRepresentation(primitive.KindSymmKeyReg, response.Content)
	if err != nil {
		return KeyRegistration{}, err
	}
	var r KeyRegistration
	r.AdminFQDN, _ = primitive.Get[muster.FQDN](resource, primitive.AdminFQDN)
	r.Labels, _ = primitive.Get[[]string](resource, primitive.Labels)
	r.Targets, _ = primitive.Get[[]string](resource, primitive.TargetIDs)
	r.Created, _ = primitive.Get[time.Time](resource, primitive.CreationTime)
	r.Modified, _ = primitive.Get[time.Time](resource, primitive.LastModifiedTime)
	id, _ := primitive.Get[string](resource, primitive.ResourceID)
	usage, _ := primitive.Get[int64](resource, primitive.SecurityUsage)
	source, _ := primitive.Get[string](resource, primitive.SourceClientID)
	var ok1, ok2 bool
	r.ID, ok1 = parseResource(id, function)
	r.Expires, ok2 = primitive.Get[time.Time](resource, primitive.ExpirationTime)
	if !ok1 || !ok2 || usage < 1 || usage > 1<<16 {
		err = fmt.Errorf("the answer lacks %s, %s or %s", primitive.ResourceID, primitive.ExpirationTime, primitive.SecurityUsage)
	}
	r.Usage = muster.SUID(usage)
	var err2, err3 error
	r.Source, err2 = muster.ParseEnroleeID(source)
	if octets, ok := primitive.Get[[]byte](resource, primitive.KeyValue); ok {
		r.Key, err3 = muster.NewKc(octets)
		clear(octets)
	}
	return r, errors.Join(err, err2, err3)
}
