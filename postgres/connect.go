package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	connectTimeout = 3 * time.Second
	pingTimeout    = time.Second
)

// Times are in milliseconds, as the server wants them. A transaction of a process
// that vanished must not keep its locks.
//
// The statements are a few that find rows by key. A plan that is made once on an
// empty table must serve when the table is large. So no plan scans a table, and
// each statement limits each table that it joins by an index condition of its own.
// (An expression in place of a column keeps that column's index out of the choice:
// those on states are for sweeping alone.)
func sessionSettings() map[string]string {
	return map[string]string{
		"application_name":                    "muster",
		"synchronous_commit":                  "on",
		"statement_timeout":                   "5000",
		"lock_timeout":                        "2000",
		"idle_in_transaction_session_timeout": "10000",
		"enable_seqscan":                      "off",
		"plan_cache_mode":                     "force_generic_plan",
	}
}

// parse reads a connection string and completes it. An error does not tell the
// password.
func parse(connection string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(connection)
	if err != nil {
		return nil, fmt.Errorf("%w%w", ErrSettings, redact(err))
	}
	if !strings.Contains(connection, "pool_max_conns") {
		config.MaxConns = readers
	}
	if !strings.Contains(connection, "connect_timeout") {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	config.PingTimeout = pingTimeout
	parameters := config.ConnConfig.RuntimeParams
	for name, value := range sessionSettings() {
		if _, given := parameters[name]; !given {
			parameters[name] = value
		}
	}
	// With less, a commit that was acknowledged could be lost with one machine.
	if level := parameters["synchronous_commit"]; !slices.Contains([]string{"on", "remote_apply"}, level) {
		return nil, fmt.Errorf("%w: synchronous_commit is %s", ErrSettings, strconv.Quote(level))
	}
	// Of several hosts, or behind one name, only the primary will do.
	if config.ConnConfig.ValidateConnect == nil {
		config.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	return config, nil
}

// redact leaves the connection string, which pgx puts between back quotes, out of
// an error: it may be so malformed that nobody knows which part is the password.
func redact(err error) error {
	text := err.Error()
	return errors.New(text[strings.LastIndex(text, "`: ")+1:])
}

// attempt runs something on a connection until the database has answered. It
// tries again, with growing pauses, after whatever another try may cure. While
// the database is known to be away one try is enough.
func (s *Store) attempt(ctx context.Context, pool *pgxpool.Pool, run func(context.Context, *pgxpool.Conn) error) error {
	limited, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	var answer error // of the server, the last that it gave
	for try := 1; ; try++ {
		err, reached := s.once(limited, pool, run)
		if reached {
			answer = err
		}
		switch {
		case err == nil:
			s.away.Store(false)
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case s.closed.Load() && !reached:
			return ErrClosed
		case reached && !transient(err):
			return err
		}
		known := !reached && s.away.Swap(true)
		if known || try == maxTries || !pause(limited, try) {
			if limited.Err() != nil && answer != nil {
				err = answer // which says more than that the time is over
			}
			return refuseForNow(err)
		}
	}
}

// once makes one attempt, and reports whether the connection outlived it.
func (s *Store) once(ctx context.Context, pool *pgxpool.Pool, run func(context.Context, *pgxpool.Conn) error) (err error, reached bool) {
	ctx, cancel := context.WithTimeout(ctx, s.patience/2)
	defer cancel()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err, false
	}
	defer conn.Release()
	err = run(ctx, conn)
	if err != nil && !conn.Conn().IsClosed() && conn.Conn().PgConn().TxStatus() != 'I' {
		// A transaction that does not end so ends with its connection.
		_, _ = conn.Exec(ctx, "ROLLBACK")
	}
	return err, !conn.Conn().IsClosed()
}
