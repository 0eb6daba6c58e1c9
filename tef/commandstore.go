package tef

import (
	"context"
	"time"

	"muster"
)

// A QueuedCommand is a command that waits for a client, or was reported by it.
type QueuedCommand struct {
	Function     muster.FQDN // the MEF
	Registration string      // identifier of the client registration, see RegistrationID
	Command
	Created time.Time // times are kept in whole seconds
	Changed time.Time // when it was issued or reported last
}

// A CommandStore keeps a queue of commands for each client registration, which
// may be filled before the client registers. All its methods may be called by many
// goroutines at once; each is atomic and isolated from the others, and what it did
// is durable when it returns nil. A context that ends stops the waiting and not
// the work.
//
// A command is open until its status was reported. Of the open ones, the one that
// was queued first is at the head.
type CommandStore interface {
	// QueueCommand puts a command at the end of the queue, not issued yet. The same
	// identifier in the same queue with the same description is a replay and
	// changes nothing; with another one it is ErrConflict.
	QueueCommand(ctx context.Context, c QueuedCommand) error

	// IssueCommand returns the command at the head, with the status CommandIssued
	// the first time and CommandReissued later; ErrUnknown without one.
	IssueCommand(ctx context.Context, function muster.FQDN, registration string, now time.Time) (QueuedCommand, error)

	// ReportCommand closes the command at the head with a status if it has the
	// identifier and was issued; else ErrUnknown, and nothing changes. Of several
	// calls for one command, one succeeds.
	ReportCommand(ctx context.Context, function muster.FQDN, registration, id string, status CommandStatus, now time.Time) error

	// CommandPending reports whether a queue has an open command.
	CommandPending(ctx context.Context, function muster.FQDN, registration string) (bool, error)

	// Commands returns the commands of a queue that are still kept, the first
	// queued first, for an operator.
	Commands(ctx context.Context, function muster.FQDN, registration string) ([]QueuedCommand, error)

	// SweepCommands forgets at most limit commands that were reported at the given
	// time or before, perhaps not all in one transaction, and returns their number;
	// less than limit means that nothing was left to do.
	SweepCommands(ctx context.Context, reported time.Time, limit int) (int, error)
}
