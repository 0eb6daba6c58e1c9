package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// emptyFile returns a connection to a database that the first steps have made.
func emptyFile(t *testing.T, steps []migration) *sql.Conn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "muster.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err1 := connect(path, writerPragmas())
	conn, err2 := db.Conn(t.Context())
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(conn.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	execute(t, conn, fmt.Sprintf("PRAGMA application_id = %d", applicationID))
	if err := migrate(t.Context(), conn, steps, 0); err != nil {
		t.Fatal(err)
	}
	return conn
}

func execute(t *testing.T, conn *sql.Conn, statement string) {
	t.Helper()
	if _, err := conn.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// schemaText returns the version of a database's schema and its statements, after
// SQLite has found nothing wrong with the file.
func schemaText(t *testing.T, conn *sql.Conn) string {
	t.Helper()
	var version, dangling, damage, text string
	for query, into := range map[string]*string{
		"PRAGMA user_version":                           &version,
		"SELECT count(*) FROM pragma_foreign_key_check": &dangling,
		"PRAGMA integrity_check(1)":                     &damage,
	} {
		if err := conn.QueryRowContext(t.Context(), query).Scan(into); err != nil {
			t.Fatal(err)
		}
	}
	if dangling != "0" || damage != "ok" {
		t.Errorf("schema %s: %s rows refer to nothing, %s", version, dangling, damage)
	}
	// SQLite keeps the table of its sequences for good.
	err := conn.QueryRowContext(t.Context(), `SELECT coalesce(group_concat(x, char(10)), '') FROM (
		SELECT type || ' ' || name || ' of ' || tbl_name || ': ' || coalesce(sql, '') AS x FROM sqlite_schema
		WHERE name <> 'sqlite_sequence' ORDER BY name)`).Scan(&text)
	if err != nil {
		t.Fatal(err)
	}
	return "schema " + version + "\n" + text
}

// Every step leads back to the tables that the steps before it make, with records in
// them, and forward again.
func TestEveryMigrationBackAndForth(t *testing.T) {
	t.Parallel()
	steps := migrations()
	made := make([]string, len(steps)+1)
	for version := range made {
		made[version] = schemaText(t, emptyFile(t, steps[:version]))
	}
	conn := emptyFile(t, steps)
	// One record in each table; no trigger keeps a table from going.
	execute(t, conn, `
		INSERT INTO data_key VALUES (1, x'01', 1, 1);
		INSERT INTO enrolment VALUES (x'01', 'm', 'e', 1, x'01', x'01', 1, x'01', 1, 1, 2, NULL, 0);
		INSERT INTO credential VALUES (x'01', 'k', 'e', 1, 'm', 1, x'01', 1, 1, 2, 2);
		INSERT INTO registration VALUES ('f', 'i', 'c', 'a', '', 'k', 1, 1, 2);
		INSERT INTO key_registration VALUES (x'01', 's', 'a', 21, '', 1, x'01', 1, 1, 1, 2, 2, 0, NULL);
		INSERT INTO key_target VALUES (x'01', 't');
		INSERT INTO command VALUES (1, 'f', 'r', 'c', 'd', 0, 1, 1);
		INSERT INTO kpm VALUES ('k', 'e', 1, 1, x'01', 1, 1, NULL);
		INSERT INTO audit_entry VALUES ('l', 1, '{}');
		INSERT INTO audit_anchor VALUES ('l', 1, '', 1)`)
	for _, table := range []string{"audit_entry", "audit_anchor"} {
		if _, err := conn.ExecContext(t.Context(), "UPDATE "+table+" SET log = 'x'"); err == nil || !strings.Contains(err.Error(), "stay") {
			t.Errorf("the trigger of %s: %v", table, err)
		}
	}
	for version := len(steps); version > 1; version-- {
		err := step(t.Context(), conn, version, version-1, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), steps[version-1].back)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := schemaText(t, conn); got != made[version-1] {
			t.Errorf("back from %d: %s\nwant %s", version, got, made[version-1])
		}
	}
	for version := 1; version < len(steps); version++ {
		if err := migrate(t.Context(), conn, steps[:version+1], version); err != nil {
			t.Fatal(err)
		}
		if got := schemaText(t, conn); got != made[version+1] {
			t.Errorf("forward from %d: %s\nwant %s", version, got, made[version+1])
		}
	}
}

// A step is whole or not at all, whichever way it leads.
func TestMigrationThatFails(t *testing.T) {
	t.Parallel()
	const good, halves = "CREATE TABLE second (a INTEGER)", "CREATE TABLE half (a INTEGER); INSERT INTO absent VALUES (1)"
	steps := append(migrations(), migration{forward: good, back: "DROP TABLE second", kept: "second", why: "it counts"}, migration{forward: halves})
	newest := len(steps) - 1
	conn := emptyFile(t, steps[:newest])
	before := schemaText(t, conn)
	unchanged := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s went through", what)
		}
		if got := schemaText(t, conn); got != before {
			t.Errorf("%s leaves %s\nwant %s", what, got, before)
		}
	}
	unchanged("forward", migrate(t.Context(), conn, steps, newest))
	bad := append(migrations(), migration{back: "DROP TABLE second; DROP TABLE audit_entry; " + halves})
	unchanged("back", migrateBack(t.Context(), conn, bad))

	err := migrateBack(t.Context(), conn, migrations())
	unchanged("an older program", err)
	if !errors.Is(err, ErrNewer) {
		t.Errorf("an older program: %v, want ErrNewer", err)
	}
	execute(t, conn, "INSERT INTO second VALUES (2)")
	err = migrateBack(t.Context(), conn, steps[:newest])
	unchanged("a loss", err)
	if !errors.Is(err, ErrIrreversible) || !strings.Contains(err.Error(), "second is not empty: it counts") {
		t.Errorf("a loss: %v, want ErrIrreversible and why", err)
	}
	execute(t, conn, "DELETE FROM second")
	if err := migrateBack(t.Context(), conn, steps[:newest]); err != nil {
		t.Errorf("without a loss: %v", err)
	}
	before = schemaText(t, conn)
	err = migrateBack(t.Context(), conn, steps[:newest])
	unchanged("one more version back", err)
	if !errors.Is(err, ErrIrreversible) {
		t.Errorf("one more version back: %v, want ErrIrreversible", err)
	}
}
