package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A migration leads from one version of the schema to the next, and back.
type migration struct {
	forward, back string
	// kept is a table that has to be empty on the way back, for the reason why.
	kept, why string
}

// migrations returns the steps from each version to the next; the first makes
// version 1 of an empty schema, from which no way leads back.
//
// A KeID is kept as its 16 octets and the MEF's FQDN in ASCII, times as Unix
// seconds. An enrolment has a row for each target, numbered by part; part 0 is
// always there, so that the primary key gives a KeID to one enrolment and the key
// enrolment_order gives a generation to one. The column data_key numbers the key
// that seals the row's, and is NULL with it; that of a registered key is NULL from
// the start if the key is derived from Ke. It has no foreign key, which would look
// the same row up for every record: a transaction holds it once. The states are 1
// issued, 2 delivered (of a credential: used by its KmID), 3 erased, 4 superseded by
// a newer one of the Enrolee, and 5 expired; from 3 on the key is gone and the row is
// a tombstone.
// The column last_fetch tells a fetch that is run again from a second one. The
// status of a command is 0 in the queue, and from then on that of TS-0003
// 12.3.2.4. Text is compared by octets.
//
// Rows that change leave room in their pages, to change in place.
func migrations() []migration {
	return []migration{{forward: `
CREATE TABLE muster_schema (
	one integer PRIMARY KEY CHECK (one = 1),
	version integer NOT NULL
);

CREATE TABLE data_key (
	id bigint PRIMARY KEY,
	wrapped bytea NOT NULL,
	created bigint NOT NULL,
	seals bigint NOT NULL
);

CREATE TABLE enrolment (
	ke_id bytea NOT NULL,
	part integer NOT NULL,
	maf_id text COLLATE "C" NOT NULL,
	enrolee_id text COLLATE "C" NOT NULL,
	generation bigint NOT NULL,
	session bytea NOT NULL,
	certificate bytea NOT NULL,
	data_key bigint,
	sealed bytea,
	state integer NOT NULL CHECK (state BETWEEN 1 AND 5),
	created bigint NOT NULL,
	expires bigint NOT NULL,
	fetched_at bigint,
	fetches bigint NOT NULL DEFAULT 0,
	last_fetch bigint,
	CONSTRAINT enrolment_key PRIMARY KEY (ke_id, part),
	CONSTRAINT enrolment_order UNIQUE (enrolee_id, generation, part),
	CHECK ((sealed IS NULL) = (state >= 3)),
	CHECK ((sealed IS NULL) = (data_key IS NULL))
) WITH (fillfactor = 80);
CREATE INDEX enrolment_expiry ON enrolment (state, expires);
CREATE INDEX enrolment_window ON enrolment (fetched_at) WHERE state = 2;

CREATE TABLE credential (
	ke_id bytea NOT NULL,
	km_id text COLLATE "C" NOT NULL,
	enrolee_id text COLLATE "C" NOT NULL,
	generation bigint NOT NULL,
	maf_id text COLLATE "C" NOT NULL,
	data_key bigint,
	sealed bytea,
	state integer NOT NULL CHECK (state BETWEEN 1 AND 5),
	created bigint NOT NULL,
	expires bigint NOT NULL,
	ke_id_until bigint NOT NULL,
	CONSTRAINT credential_key PRIMARY KEY (ke_id),
	CONSTRAINT credential_km_id UNIQUE (km_id),
	CONSTRAINT credential_order UNIQUE (enrolee_id, generation),
	CHECK ((sealed IS NULL) = (state >= 3)),
	CHECK ((sealed IS NULL) = (data_key IS NULL))
) WITH (fillfactor = 80);
CREATE INDEX credential_expiry ON credential (state, expires);

CREATE TABLE registration (
	function text COLLATE "C" NOT NULL,
	id text COLLATE "C" NOT NULL,
	client_id text COLLATE "C" NOT NULL,
	admin_fqdn text NOT NULL,
	labels text NOT NULL,
	km_id text NOT NULL,
	created bigint NOT NULL,
	modified bigint NOT NULL,
	expires bigint NOT NULL,
	CONSTRAINT registration_key PRIMARY KEY (function, id)
);
CREATE INDEX registration_expiry ON registration (expires);

CREATE TABLE key_registration (
	key_id bytea NOT NULL,
	source_id text COLLATE "C" NOT NULL,
	admin_fqdn text NOT NULL,
	usage integer NOT NULL,
	labels text NOT NULL,
	targets text[] NOT NULL,
	data_key bigint,
	sealed bytea,
	state integer NOT NULL CHECK (state IN (1, 3)),
	created bigint NOT NULL,
	modified bigint NOT NULL,
	expires bigint NOT NULL,
	latest bigint,
	CONSTRAINT key_registration_key PRIMARY KEY (key_id),
	CHECK (sealed IS NULL OR state = 1),
	CHECK ((sealed IS NULL) = (data_key IS NULL))
);
CREATE INDEX key_registration_source ON key_registration (source_id, expires);
CREATE INDEX key_registration_expiry ON key_registration (expires);

CREATE TABLE command (
	function text COLLATE "C" NOT NULL,
	registration text COLLATE "C" NOT NULL,
	position bigint NOT NULL,
	cmd_id text COLLATE "C" NOT NULL,
	description text NOT NULL,
	status integer NOT NULL,
	created bigint NOT NULL,
	changed bigint NOT NULL,
	CONSTRAINT command_order PRIMARY KEY (function, registration, position),
	CONSTRAINT command_id UNIQUE (function, registration, cmd_id)
);
CREATE INDEX command_open ON command (function, registration, position) WHERE status < 20;
CREATE INDEX command_reported ON command (changed) WHERE status >= 20;

INSERT INTO muster_schema (one, version) VALUES (1, 0);
`}, {forward: `
CREATE TABLE kpm (
	kpm_id text COLLATE "C" NOT NULL,
	enrolee_id text COLLATE "C" NOT NULL,
	generation bigint NOT NULL,
	data_key bigint,
	sealed bytea,
	state integer NOT NULL CHECK (state IN (1, 2, 4, 5)),
	created bigint NOT NULL,
	until bigint,
	CONSTRAINT kpm_key PRIMARY KEY (kpm_id),
	CONSTRAINT kpm_order UNIQUE (enrolee_id, generation),
	CHECK ((sealed IS NULL) = (state >= 3)),
	CHECK ((sealed IS NULL) = (data_key IS NULL))
);
CREATE INDEX kpm_end ON kpm (until) WHERE state < 3;
`, back: `
DROP TABLE kpm;
`}, {forward: `
ALTER TABLE key_registration ADD COLUMN fetches bigint NOT NULL DEFAULT 0, ADD COLUMN fetched_at bigint;
`, back: `
ALTER TABLE key_registration DROP COLUMN fetches, DROP COLUMN fetched_at;
`}, {forward: `
DROP INDEX key_registration_source;
CREATE INDEX key_registration_source ON key_registration (source_id, key_id);
`, back: `
DROP INDEX key_registration_source;
CREATE INDEX key_registration_source ON key_registration (source_id, expires);
`}, {forward: `
CREATE INDEX enrolment_data_key ON enrolment (data_key) WHERE data_key IS NOT NULL;
CREATE INDEX credential_data_key ON credential (data_key) WHERE data_key IS NOT NULL;
CREATE INDEX key_registration_data_key ON key_registration (data_key) WHERE data_key IS NOT NULL;
CREATE INDEX kpm_data_key ON kpm (data_key) WHERE data_key IS NOT NULL;
`, back: `
DROP INDEX enrolment_data_key, credential_data_key, key_registration_data_key, kpm_data_key;
`}, {forward: `
CREATE TABLE audit_entry (
	log text COLLATE "C" NOT NULL,
	seq bigint NOT NULL CHECK (seq > 0),
	line text NOT NULL,
	CONSTRAINT audit_entry_key PRIMARY KEY (log, seq)
);
CREATE FUNCTION audit_entry_stays() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN RAISE EXCEPTION 'audit entries stay as they are'; END $$;
CREATE TRIGGER audit_entry_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entry
	FOR EACH STATEMENT EXECUTE FUNCTION audit_entry_stays();
`, back: `
DROP TABLE audit_entry;
DROP FUNCTION audit_entry_stays;
`}, {forward: `
CREATE TABLE audit_anchor (
	log text COLLATE "C" NOT NULL,
	seq bigint NOT NULL CHECK (seq > 0),
	hash text NOT NULL,
	pruned bigint NOT NULL,
	CONSTRAINT audit_anchor_key PRIMARY KEY (log, seq)
);
CREATE TRIGGER audit_anchor_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_anchor
	FOR EACH STATEMENT EXECUTE FUNCTION audit_entry_stays();
CREATE FUNCTION audit_entry_goes() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN
		IF NOT EXISTS (SELECT 1 FROM audit_anchor WHERE log = OLD.log AND seq >= OLD.seq) THEN RAISE EXCEPTION 'audit entries stay'; END IF;
		RETURN OLD;
	END $$;
DROP TRIGGER audit_entry_stays ON audit_entry;
CREATE TRIGGER audit_entry_stays BEFORE UPDATE OR TRUNCATE ON audit_entry
	FOR EACH STATEMENT EXECUTE FUNCTION audit_entry_stays();
CREATE TRIGGER audit_entry_goes BEFORE DELETE ON audit_entry
	FOR EACH ROW EXECUTE FUNCTION audit_entry_goes();
`, back: `
DROP TRIGGER audit_entry_goes ON audit_entry;
DROP FUNCTION audit_entry_goes;
DROP TRIGGER audit_entry_stays ON audit_entry;
CREATE TRIGGER audit_entry_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entry
	FOR EACH STATEMENT EXECUTE FUNCTION audit_entry_stays();
DROP TABLE audit_anchor;
`, kept: "audit_anchor", why: "without its anchor, what is left of a pruned audit log is taken for broken"}}
}

// Create makes the tables in the current schema of the database that the
// connection string names, and the first data key, in one transaction. If they
// are there already, nothing is done and the error wraps ErrExists.
func Create(ctx context.Context, connection string, sealer Sealer) error {
	conn, err := connectOnce(ctx, connection)
	if err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	wrapped, err := sealer.NewDataKey(1)
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := makeTables(ctx, tx, migrations()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO data_key (id, wrapped, created, seals) VALUES (1, $1, $2, 0)", wrapped, time.Now().Unix())
		return err
	})
	if err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	return nil
}

// makeTables takes all steps in the current schema. If tables are there already, the
// error wraps ErrExists.
func makeTables(ctx context.Context, tx pgx.Tx, steps []migration) error {
	for version := range steps {
		err := step(ctx, tx, steps[version].forward, version+1)
		if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == "42P07" {
			return fmt.Errorf("%w: %w", ErrExists, err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// connectOnce connects for changes of the schema, which may take their time.
func connectOnce(ctx context.Context, connection string) (*pgx.Conn, error) {
	config, err := parse(connection)
	if err != nil {
		return nil, err
	}
	for _, limit := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
		config.ConnConfig.RuntimeParams[limit] = "0"
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return conn, nil
}

// checkVersion refuses a database that this version cannot serve. It changes nothing.
func checkVersion(ctx context.Context, conn interface {
	QueryRow(ctx context.Context, query string, args ...any) pgx.Row
}) error {
	var version int
	if err := conn.QueryRow(ctx, "SELECT version FROM muster_schema WHERE one = 1").Scan(&version); err != nil {
		return identify(err)
	}
	switch known := len(migrations()); {
	case version > known:
		return fmt.Errorf("%w: schema %d, and this Muster knows %d", ErrNewer, version, known)
	case version < known:
		return fmt.Errorf("%w: schema %d, and this Muster needs %d", ErrOlder, version, known)
	}
	return nil
}

// identify names the errors by which a database turns out to be none of Muster's.
func identify(err error) error {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	if ok && refused.Code == "42P01" || errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%w: %w", ErrForeign, err)
	}
	return err
}
