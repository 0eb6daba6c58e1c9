package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"muster"
	"muster/tef"
)

var _ tef.CommandStore = (*Store)(nil)

const (
	commandColumns = "cmd_id, description, status, created, changed"

	selectDescription = "SELECT description FROM command WHERE function = $1 AND registration = $2 AND cmd_id = $3"

	// Of two that take the same position one is refused and tries again.
	insertCommand = `INSERT INTO command (function, registration, position, cmd_id, description, status, created, changed)
		SELECT $1, $2, coalesce(max(position), 0) + 1, $3, $4, 0, $5, $5 FROM command WHERE function = $1 AND registration = $2`

	headOfQueue = "(SELECT min(position) FROM command WHERE function = $1 AND registration = $2 AND status < 20)"

	issueCommand = `UPDATE command SET status = CASE status WHEN 0 THEN 10 ELSE 11 END, changed = $3
		WHERE function = $1 AND registration = $2 AND status < 20 AND position = ` + headOfQueue + " RETURNING " + commandColumns

	reportCommand = `UPDATE command SET status = $4, changed = $5
		WHERE function = $1 AND registration = $2 AND cmd_id = $3 AND status > 0 AND status < 20 AND position = ` + headOfQueue

	selectPending = "SELECT EXISTS (SELECT 1 FROM command WHERE function = $1 AND registration = $2 AND status < 20)"

	selectCommands = "SELECT " + commandColumns + " FROM command WHERE function = $1 AND registration = $2 ORDER BY position"
)

// QueueCommand is tef.CommandStore's.
func (s *Store) QueueCommand(ctx context.Context, c tef.QueuedCommand) error {
	description, err := c.Description.MarshalText()
	if err != nil {
		return err
	}
	_, err = alone(ctx, s, tef.ErrBusy, c.Registration, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) (struct{}, error) {
		var stored string
		err := tx.QueryRow(ctx, selectDescription, c.Function.String(), c.Registration, c.ID).Scan(&stored)
		switch {
		case err == nil && stored == string(description):
			return struct{}{}, nil
		case err == nil:
			return struct{}{}, fmt.Errorf("%w: command %s", tef.ErrConflict, c.ID)
		case !errors.Is(err, pgx.ErrNoRows):
			return struct{}{}, err
		}
		_, err = tx.Exec(ctx, insertCommand, c.Function.String(), c.Registration, c.ID, string(description), c.Created.Unix())
		return struct{}{}, err
	})
	return err
}

// IssueCommand is tef.CommandStore's.
func (s *Store) IssueCommand(ctx context.Context, function muster.FQDN, registration string, now time.Time) (tef.QueuedCommand, error) {
	return alone(ctx, s, tef.ErrBusy, registration, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) (tef.QueuedCommand, error) {
		c, err := scanCommand(tx.QueryRow(ctx, issueCommand, function.String(), registration, now.Unix()), function, registration)
		if errors.Is(err, pgx.ErrNoRows) {
			err = fmt.Errorf("%w: no command for %s", tef.ErrUnknown, registration)
		}
		return c, err
	})
}

func scanCommand(row pgx.Row, function muster.FQDN, registration string) (tef.QueuedCommand, error) {
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
	_, err := alone(ctx, s, tef.ErrBusy, registration, pgx.Serializable, func(ctx context.Context, tx pgx.Tx) (struct{}, error) {
		tag, err := tx.Exec(ctx, reportCommand, function.String(), registration, id, int(status), now.Unix())
		if err == nil && tag.RowsAffected() == 0 {
			err = fmt.Errorf("%w: command %s is not the one issued to %s", tef.ErrUnknown, id, registration)
		}
		return struct{}{}, err
	})
	return err
}

// CommandPending is tef.CommandStore's.
func (s *Store) CommandPending(ctx context.Context, function muster.FQDN, registration string) (bool, error) {
	pending, err := exists[bool](ctx, s, selectPending, function.String(), registration)
	return pending != nil && *pending, err
}

// Commands is tef.CommandStore's.
func (s *Store) Commands(ctx context.Context, function muster.FQDN, registration string) (all []tef.QueuedCommand, err error) {
	err = s.read(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		rows, err := conn.Query(ctx, selectCommands, function.String(), registration)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (tef.QueuedCommand, error) {
			return scanCommand(row, function, registration)
		})
		return err
	})
	return all, err
}

// SweepCommands is tef.CommandStore's.
func (s *Store) SweepCommands(ctx context.Context, reported time.Time, limit int) (int, error) {
	return s.sweep(ctx, tef.ErrBusy, limit, sweepStep{sweepCommands, reported.Unix()})
}
