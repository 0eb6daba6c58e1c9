package mef

import (
	"context"
	"errors"
	"strings"
	"time"

	"muster"
	"muster/tef"
)

// Recipients are the clients of an administrating stakeholder for which a command
// is meant: one client, which may register later, or those that are registered.
type Recipients struct {
	AdminFQDN muster.FQDN
	// Enrolee is the one client; zero for a group.
	Enrolee muster.EnroleeID
	// Prefix is what the identifiers of a group begin with: two slashes, and more
	// where not all of the stakeholder's clients are meant. It is "" for one client.
	Prefix string
}

func (r Recipients) check() error {
	switch {
	case r.AdminFQDN.IsZero():
		return errors.New("no administrating stakeholder is named")
	case r.Enrolee.IsZero() == (r.Prefix == ""):
		return errors.New("a command is for either one client or a group")
	case r.Prefix != "" && !strings.HasPrefix(r.Prefix, "//"):
		return errors.New("the prefix of a group does not begin with two slashes, as the identifiers do")
	}
	return nil
}

// QueueCommand queues a command under an identifier of 1 to 64 octets that is
// unique for each recipient, and returns for how many clients it now stands in
// the queue. The same call again changes nothing, so that one that failed half
// way is repeated. The error is a muster.Refusal with CodeRequestMalformed for
// what is no command, and with CodeCommandConflict where another command has the
// identifier; then the clients before the one that is named have the command.
//
// TS-0003 8.3.9
func (f *Function) QueueCommand(ctx context.Context, to Recipients, id string, d tef.CommandDescription, now time.Time) (int, error) {
	if err := errors.Join(to.check(), tef.CheckCommand(id, d)); err != nil {
		return 0, muster.Refuse(muster.CodeRequestMalformed, "%w", err)
	}
	queued, err := 1, error(nil)
	if to.Prefix == "" {
		err = tef.Queue(ctx, f.service.Commands, f.config.FQDN, to.Enrolee, to.AdminFQDN, id, d, now)
	} else {
		queued, err = tef.QueueForGroup(ctx, f.service.Store, f.service.Commands, f.config.FQDN, to.Prefix, to.AdminFQDN, id, d, now)
	}
	switch {
	case errors.Is(err, tef.ErrConflict):
		return 0, muster.Refuse(muster.CodeCommandConflict, "another command has the identifier %.64q: %w", id, err)
	case errors.Is(err, tef.ErrBusy):
		return 0, muster.Refuse(muster.CodeBusy, "%w", err)
	case err != nil:
		return 0, err
	}
	return queued, nil
}

// Commands returns the commands of a stakeholder's client that are still kept,
// the first queued first, with what became of them.
func (f *Function) Commands(ctx context.Context, enrolee muster.EnroleeID, admin muster.FQDN) ([]tef.QueuedCommand, error) {
	return f.service.Commands.Commands(ctx, f.config.FQDN, tef.RegistrationID(enrolee, admin))
}
