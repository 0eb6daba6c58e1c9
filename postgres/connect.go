package postgres

import (
	"context"
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
// The statements are a few that find rows by key. Plans for them must neither
// depend on how large a table was when a connection was new, nor scan a table.
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
		return nil, fmt.Errorf("%w: %w", ErrSettings, redact(err, connection))
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

// redact keeps the connection string out of an error: it may be so malformed that
// nobody knows which part of it is the password.
func redact(err error, connection string) error {
	text := err.Error()
	for _, part := range strings.FieldsFunc(connection, func(r rune) bool { return strings.ContainsRune(" :/@?&='", r) }) {
		if len(part) > 2 && !strings.Contains("postgresql", part) {
			text = strings.ReplaceAll(text, part, "xxxxx")
		}
	}
	return fmt.Errorf("%s", text)
}

// attempt runs something on a connection until the database has answered. It
// tries again, with growing pauses, after whatever another try may cure. While
// the database is known to be away one try is enough: it is refused as busy.
func (s *Store) attempt(ctx context.Context, pool *pgxpool.Pool, run func(context.Context, *pgxpool.Conn) error) error {
	limited, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	for try := 1; ; try++ {
		err, reached := s.once(limited, pool, run)
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
			return refuseAway(err)
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
