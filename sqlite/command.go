package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"muster"
	"muster/tef"
)

var _ tef.CommandStore = (*Store)(nil)

// QueueCommand is tef.CommandStore's.
func (s *Store) QueueCommand(ctx context.Context, c tef.QueuedCommand) error {
	description, err := c.Description.MarshalText()
	if err != nil {
		return err
	}
	_, err = do(ctx, &s.write, tef.ErrBusy, func() (struct{}, error) {
		var stored string
		err := s.write.commandRow.QueryRow(c.Function.String(), c.Registration, c.ID).Scan(&stored)
		switch {
		case err == nil && stored == string(description):
			return struct{}{}, nil
		case err == nil:
			return struct{}{}, fmt.Errorf("%w: command %s", tef.ErrConflict, c.ID)
		case !errors.Is(err, sql.ErrNoRows):
			return struct{}{}, err
		}
		_, err = s.write.insertCommand.Exec(c.Function.String(), c.Registration, c.ID, string(description), c.Created.Unix())
		return struct{}{}, err
	})
	return err
}

// IssueCommand is tef.CommandStore's.
func (s *Store) IssueCommand(ctx context.Context, function muster.FQDN, registration string, now time.Time) (tef.QueuedCommand, error) {
	return do(ctx, &s.write, tef.ErrBusy, func() (tef.QueuedCommand, error) {
		c, err := scanCommand(s.write.issueCommand.QueryRow(function.String(), registration, now.Unix()), function, registration)
		if errors.Is(err, sql.ErrNoRows) {
			err = fmt.Errorf("%w: no command for %s", tef.ErrUnknown, registration)
		}
		return c, err
	})
}

func scanCommand(row interface{ Scan(...any) error }, function muster.FQDN, registration string) (tef.QueuedCommand, error) {
	c := tef.QueuedCommand{Function: function, Registration: registration}
	var description string
	var created, changed int64
	if err := row.Scan(&c.ID, &description, &c.Status, &created, &changed); err != nil {
		return tef.QueuedCommand{}, err
	}
	c.Created, c.Changed = time.Unix(created, 0).UTC(), time.Unix(changed, 0).UTC()
	return c, c.Description.UnmarshalText([]byte(description))
}

// ReportCommand is tef.CommandStore's.
func (s *Store) ReportCommand(ctx context.Context, function muster.FQDN, registration, id string, status tef.CommandStatus, now time.Time) error {
	_, err := do(ctx, &s.write, tef.ErrBusy, func() (struct{}, error) {
		n, err := changed(s.write.reportCommand.Exec(function.String(), registration, id, int(status), now.Unix()))
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: command %s is not the one issued to %s", tef.ErrUnknown, id, registration)
		}
		return struct{}{}, err
	})
	return err
}

// CommandPending is tef.CommandStore's.
func (s *Store) CommandPending(ctx context.Context, function muster.FQDN, registration string) (pending bool, err error) {
	if err = s.read.commandPending.QueryRowContext(ctx, function.String(), registration).Scan(&pending); err != nil {
		return false, s.readError(err)
	}
	return pending, nil
}

// Commands is tef.CommandStore's.
func (s *Store) Commands(ctx context.Context, function muster.FQDN, registration string) ([]tef.QueuedCommand, error) {
	rows, err := s.read.commands.QueryContext(ctx, function.String(), registration)
	if err != nil {
		return nil, s.readError(err)
	}
	defer rows.Close()
	var all []tef.QueuedCommand
	for rows.Next() {
		c, err := scanCommand(rows, function, registration)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, rows.Err()
}

// SweepCommands is tef.CommandStore's.
func (s *Store) SweepCommands(ctx context.Context, reported time.Time, limit int) (int, error) {
	return s.sweep(ctx, tef.ErrBusy, limit, sweepStep{s.write.sweepCommands, reported.Unix()})
}
