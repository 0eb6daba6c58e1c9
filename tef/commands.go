package tef

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"muster"
	"muster/primitive"
)

// announce adds the reference by which a client learns that a command waits.
//
// TS-0003 8.3.4.6
func (s *Service) announce(ctx context.Context, resource *primitive.Resource, r ClientRegistration) error {
	if s.Commands == nil {
		return nil
	}
	pending, err := s.Commands.CommandPending(ctx, s.FQDN, r.ID)
	if err != nil || !pending {
		return err
	}
	resource.Set(primitive.ChildResource, []primitive.Reference{{
		Name: primitive.NameCommand, Type: s.Wire.Type(primitive.KindMEFClientCmd), To: s.Wire.To(r.ID, primitive.NameCommand),
	}})
	return nil
}

// serveCommand answers the retrieval of a command with the next one, and the
// report of a command's status with the next one as well.
//
// TS-0003 8.3.9.2, 8.3.9.3
func (s *Service) serveCommand(ctx context.Context, r *primitive.Request, registration ClientRegistration, now time.Time) (*primitive.Response, error) {
	if s.Commands == nil {
		return nil, &primitive.Error{Status: primitive.NotFound}
	}
	switch r.Operation {
	case primitive.Retrieve:
		return s.issue(ctx, primitive.OK, registration, now)
	case primitive.Update:
		if err := s.report(ctx, r, registration, now); err != nil {
			return nil, err
		}
		return s.issue(ctx, primitive.Updated, registration, now)
	}
	return nil, &primitive.Error{Status: primitive.OperationNotAllowed}
}

// report notes the status of the command that was issued last. That of another
// command is passed over.
func (s *Service) report(ctx context.Context, r *primitive.Request, registration ClientRegistration, now time.Time) error {
	wanted, err := s.Wire.Decode(primitive.KindMEFClientCmd, primitive.Update, r.Content)
	if err != nil {
		return err
	}
	id, _ := primitive.Get[string](wanted, primitive.CommandID)
	code, _ := primitive.Get[int64](wanted, primitive.CommandStatusCode)
	status := CommandStatus(code)
	if !status.reportable() {
		return badAttribute(primitive.CommandStatusCode, "is not a status that a client reports")
	}
	err = s.Commands.ReportCommand(ctx, s.FQDN, registration.ID, id, status, now)
	if errors.Is(err, ErrUnknown) {
		return nil
	}
	return refuseStore(err)
}

// issue answers with the command at the head of the queue, or with the news that
// there is none.
func (s *Service) issue(ctx context.Context, status primitive.Status, registration ClientRegistration, now time.Time) (*primitive.Response, error) {
	queued, err := s.Commands.IssueCommand(ctx, s.FQDN, registration.ID, now)
	if errors.Is(err, ErrUnknown) {
		queued.Command, err = s.noMore()
	}
	if err != nil {
		return nil, refuseStore(err)
	}
	description, err := queued.Description.Object()
	if err != nil {
		return nil, err
	}
	content, err := s.Wire.Encode(primitive.NewResource(primitive.KindMEFClientCmd).
		Set(primitive.ResourceID, primitive.NameCommand).
		Set(primitive.ResourceType, int64(s.Wire.Type(primitive.KindMEFClientCmd))).
		Set(primitive.ParentID, registration.ID).
		Set(primitive.CommandID, queued.ID).
		Set(primitive.CommandDescription, description).
		Set(primitive.CommandStatusCode, int64(queued.Status)))
	return &primitive.Response{Status: status, Content: content}, err
}

// noMore returns a command that ends the exchange. Its identifier is drawn, since
// it must differ from that which the client reported last.
//
// TS-0003 8.3.9.6
func (s *Service) noMore() (Command, error) {
	var id [8]byte
	if _, err := io.ReadFull(s.Rand, id[:]); err != nil {
		return Command{}, err
	}
	return Command{
		ID: hex.EncodeToString(id[:]), Status: CommandIssued,
		Description: CommandDescription{Class: ClassNoMore, NoMore: &NoMoreCommands{RetryAfter: s.RetryDuration}},
	}, nil
}

// ParseCommand returns the command in a MEF's answer. An answer that reports a
// failure is returned as a *primitive.Error. A command whose arguments cannot be
// read comes with its identifier and an error that wraps ErrArguments.
func ParseCommand(wire *primitive.Wire, response *primitive.Response) (Command, error) {
	if err := response.Err(); err != nil {
		return Command{}, err
	}
	resource, err := wire.DecodeRepresentation(primitive.KindMEFClientCmd, response.Content)
	if err != nil {
		return Command{}, err
	}
	id, ok1 := primitive.Get[string](resource, primitive.CommandID)
	status, ok2 := primitive.Get[int64](resource, primitive.CommandStatusCode)
	description, ok3 := primitive.Get[primitive.Object](resource, primitive.CommandDescription)
	if !ok1 || !ok2 || !ok3 || id == "" || len(id) > maxCommandID {
		return Command{}, fmt.Errorf("the command lacks %s, %s or %s", primitive.CommandID, primitive.CommandStatusCode, primitive.CommandDescription)
	}
	c := Command{ID: id, Status: CommandStatus(status)}
	c.Description, err = ParseCommandDescription(description)
	return c, err
}

const maxCommandID = 64 // octets

// CheckCommand says what is wrong with a command that a client could not read.
func CheckCommand(id string, d CommandDescription) error {
	if id == "" || len(id) > maxCommandID {
		return fmt.Errorf("a command's identifier has %d octets, not 1 to %d", len(id), maxCommandID)
	}
	return d.check()
}

// Queue puts a command for a client of a stakeholder into a MEF's store. Its
// identifier must be unique among those of the client; the client may register
// later.
func Queue(ctx context.Context, store CommandStore, function muster.FQDN, client muster.EnroleeID, admin muster.FQDN, id string, d CommandDescription, now time.Time) error {
	if err := CheckCommand(id, d); err != nil {
		return err
	}
	return store.QueueCommand(ctx, QueuedCommand{
		Function: function, Registration: RegistrationID(client, admin), Command: Command{ID: id, Description: d}, Created: now, Changed: now,
	})
}

// queuePage is how many clients of a group are looked up at a time.
const queuePage = 200

// QueueForGroup queues a command for every client that is registered with a
// stakeholder and whose identifier begins with prefix, and returns for how many.
// A call that failed may be repeated: who has the command already is passed over.
func QueueForGroup(ctx context.Context, clients Store, commands CommandStore, function muster.FQDN, prefix string, admin muster.FQDN, id string, d CommandDescription, now time.Time) (int, error) {
	page := RegistrationQuery{Function: function, AdminFQDN: admin, ClientPrefix: prefix, Limit: queuePage, Now: now}
	for queued := 0; ; {
		group, err := clients.Registrations(ctx, page)
		if err != nil {
			return queued, err
		}
		for _, r := range group {
			if err := Queue(ctx, commands, function, r.ClientID, admin, id, d, now); err != nil {
				return queued, fmt.Errorf("for %s: %w", r.ClientID, err)
			}
			queued++
		}
		if len(group) < page.Limit {
			return queued, nil
		}
		page.After = group[len(group)-1].ID
	}
}
