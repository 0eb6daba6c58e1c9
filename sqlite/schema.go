package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// applicationID marks a file as a database of Muster: "MSTR".
const applicationID = 0x4d535452

// A migration leads from one version of the schema to the next, and back.
type migration struct {
	forward, back string
	// kept is a table that has to be empty on the way back, for the reason why.
	kept, why string
}

// migrations returns the steps from each version of the schema to the next; the
// first makes version 1 of an empty file, from which no way leads back. user_version
// counts them.
//
// A KeID is kept as its 16 octets and the MEF's FQDN in ASCII, times as Unix
// seconds. The column data_key numbers the key that seals the row's, and is NULL
// with it; that of a registered key is NULL from the start if the key is derived
// from Ke. The states are 1 issued, 2 delivered (of a credential: used by its
// KmID; of a Kpm: used), 3 erased, 4 superseded by a newer one of the Enrolee, and 5 expired; from
// 3 on the key is gone and the row is a tombstone. The status of a command is 0
// in the queue, and from then on that of TS-0003 12.3.2.4.
func migrations() []migration {
	return []migration{{forward: `
CREATE TABLE data_key (
	id INTEGER PRIMARY KEY,
	wrapped BLOB NOT NULL,
	created INTEGER NOT NULL,
	seals INTEGER NOT NULL
) STRICT;

CREATE TABLE enrolment (
	ke_id BLOB NOT NULL,
	maf_id TEXT NOT NULL,
	enrolee_id TEXT NOT NULL,
	generation INTEGER NOT NULL,
	session BLOB NOT NULL,
	certificate BLOB NOT NULL,
	data_key INTEGER REFERENCES data_key,
	sealed BLOB,
	state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 5),
	created INTEGER NOT NULL,
	expires INTEGER NOT NULL,
	fetched_at INTEGER,
	fetches INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (ke_id, maf_id),
	UNIQUE (enrolee_id, generation, maf_id),
	CHECK ((sealed IS NULL) = (state >= 3)),
	CHECK ((sealed IS NULL) = (data_key IS NULL))
) STRICT;
CREATE INDEX enrolment_expiry ON enrolment (state, expires);
CREATE INDEX enrolment_window ON enrolment (fetched_at) WHERE state = 2;

CREATE TABLE credential (
	ke_id BLOB NOT NULL PRIMARY KEY,
	km_id TEXT NOT NULL UNIQUE,
	enrolee_id TEXT NOT NULL,
	generation INTEGER NOT NULL,
	maf_id TEXT NOT NULL,
	data_key INTEGER REFERENCES data_key,
	sealed BLOB,
	state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 5),
	created INTEGER NOT NULL,
	expires INTEGER NOT NULL,
	ke_id_until INTEGER NOT NULL,
	UNIQUE (enrolee_id, generation),
	CHECK ((sealed IS NULL) = (state >= 3)),
	CHECK ((sealed IS NULL) = (data_key IS NULL))
) STRICT;
CREATE INDEX credential_expiry ON credential (state, expires);

CREATE TABLE registration (
	function TEXT NOT NULL,
	id TEXT NOT NULL,
	client_id TEXT NOT NULL,
	admin_fqdn TEXT NOT NULL,
	labels TEXT NOT NULL,
	km_id TEXT NOT NULL,
	created INTEGER NOT NULL,
	modified INTEGER NOT NULL,
	expires INTEGER NOT NULL,
	PRIMARY KEY (function, id)
) STRICT;
CREATE INDEX registration_expiry ON registration (expires);
`}, {forward: `
CREATE TABLE key_registration (
	key_id BLOB NOT NULL PRIMARY KEY,
	source_id TEXT NOT NULL,
	admin_fqdn TEXT NOT NULL,
	usage INTEGER NOT NULL,
	labels TEXT NOT NULL,
	data_key INTEGER REFERENCES data_key,
	sealed BLOB,
	state INTEGER NOT NULL CHECK (state IN (1, 3)),
	created INTEGER NOT NULL,
	modified INTEGER NOT NULL,
	expires INTEGER NOT NULL,
	latest INTEGER,
	CHECK (sealed IS NULL OR state = 1),
	CHECK ((sealed IS NULL) = (data_key IS NULL))
) STRICT;
CREATE INDEX key_registration_source ON key_registration (source_id, expires);
CREATE INDEX key_registration_expiry ON key_registration (expires);

CREATE TABLE key_target (
	key_id BLOB NOT NULL REFERENCES key_registration ON DELETE CASCADE,
	target_id TEXT NOT NULL,
	PRIMARY KEY (key_id, target_id)
) STRICT;

CREATE TABLE command (
	position INTEGER PRIMARY KEY AUTOINCREMENT,
	function TEXT NOT NULL,
	registration TEXT NOT NULL,
	cmd_id TEXT NOT NULL,
	description TEXT NOT NULL,
	status INTEGER NOT NULL,
	created INTEGER NOT NULL,
	changed INTEGER NOT NULL,
	UNIQUE (function, registration, cmd_id)
) STRICT;
CREATE INDEX command_open ON command (function, registration, position) WHERE status < 20;
CREATE INDEX command_reported ON command (changed) WHERE status >= 20;
`, back: `
DROP TABLE command;
DROP TABLE key_target;
DROP TABLE key_registration;
`}, {forward: `
CREATE TABLE kpm (
	kpm_id TEXT NOT NULL PRIMARY KEY,
	enrolee_id TEXT NOT NULL,
	generation INTEGER NOT NULL,
	data_key INTEGER REFERENCES data_key,
	sealed BLOB,
	state INTEGER NOT NULL CHECK (state IN (1, 2, 4, 5)),
	created INTEGER NOT NULL,
	until INTEGER,
	UNIQUE (enrolee_id, generation),
	CHECK ((sealed IS NULL) = (state >= 3)),
	CHECK ((sealed IS NULL) = (data_key IS NULL))
) STRICT;
CREATE INDEX kpm_end ON kpm (until) WHERE state < 3;
`, back: `
DROP TABLE kpm;
`}, {forward: `
ALTER TABLE key_registration ADD COLUMN fetches INTEGER NOT NULL DEFAULT 0;
ALTER TABLE key_registration ADD COLUMN fetched_at INTEGER;
`, back: `
ALTER TABLE key_registration DROP COLUMN fetched_at;
ALTER TABLE key_registration DROP COLUMN fetches;
`}, {forward: `
CREATE INDEX enrolment_data_key ON enrolment (data_key) WHERE data_key IS NOT NULL;
CREATE INDEX credential_data_key ON credential (data_key) WHERE data_key IS NOT NULL;
CREATE INDEX key_registration_data_key ON key_registration (data_key) WHERE data_key IS NOT NULL;
CREATE INDEX kpm_data_key ON kpm (data_key) WHERE data_key IS NOT NULL;
`, back: `
DROP INDEX enrolment_data_key;
DROP INDEX credential_data_key;
DROP INDEX key_registration_data_key;
DROP INDEX kpm_data_key;
`}, {forward: `
DROP INDEX key_registration_source;
CREATE INDEX key_registration_source ON key_registration (source_id, key_id);
`, back: `
DROP INDEX key_registration_source;
CREATE INDEX key_registration_source ON key_registration (source_id, expires);
`}, {forward: `
CREATE TABLE audit_entry (
	log TEXT NOT NULL,
	seq INTEGER NOT NULL CHECK (seq > 0),
	line TEXT NOT NULL,
	PRIMARY KEY (log, seq)
) STRICT;
CREATE TRIGGER audit_entry_unchanged BEFORE UPDATE ON audit_entry BEGIN SELECT RAISE(ABORT, 'audit entries stay as they are'); END;
CREATE TRIGGER audit_entry_kept BEFORE DELETE ON audit_entry BEGIN SELECT RAISE(ABORT, 'audit entries stay'); END;
`, back: `
DROP TABLE audit_entry;
`}, {forward: `
CREATE TABLE audit_anchor (
	log TEXT NOT NULL,
	seq INTEGER NOT NULL CHECK (seq > 0),
	hash TEXT NOT NULL,
	pruned INTEGER NOT NULL,
	PRIMARY KEY (log, seq)
) STRICT;
CREATE TRIGGER audit_anchor_unchanged BEFORE UPDATE ON audit_anchor BEGIN SELECT RAISE(ABORT, 'audit anchors stay as they are'); END;
CREATE TRIGGER audit_anchor_kept BEFORE DELETE ON audit_anchor BEGIN SELECT RAISE(ABORT, 'audit anchors stay'); END;
DROP TRIGGER audit_entry_kept;
CREATE TRIGGER audit_entry_kept BEFORE DELETE ON audit_entry
	WHEN NOT EXISTS (SELECT 1 FROM audit_anchor WHERE log = OLD.log AND seq >= OLD.seq)
	BEGIN SELECT RAISE(ABORT, 'audit entries stay'); END;
`, back: `
DROP TRIGGER audit_entry_kept;
CREATE TRIGGER audit_entry_kept BEFORE DELETE ON audit_entry BEGIN SELECT RAISE(ABORT, 'audit entries stay'); END;
DROP TABLE audit_anchor;
`, kept: "audit_anchor", why: "without its anchor, what is left of a pruned audit log is taken for broken"}}
}

// create makes the schema and the first data key.
func create(ctx context.Context, db *sql.DB, wrapped []byte, now time.Time) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := makeSchema(ctx, conn); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, "INSERT INTO data_key (id, wrapped, created, seals) VALUES (1, ?, ?, 0)", wrapped, now.Unix())
	return err
}

// makeSchema makes the tables of an empty database.
func makeSchema(ctx context.Context, conn *sql.Conn) error {
	if _, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
		return err
	}
	return migrate(ctx, conn, migrations(), 0)
}
