package postgres_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"muster/postgres"
)

// tables describes the tables of a database, and their version.
func tables(t *testing.T, url string) string {
	t.Helper()
	return edit(t, url, `SELECT 'schema ' || version FROM muster_schema; SELECT replace(x, current_schema || '.', '') FROM (
		SELECT format('%s %s of %s: %s not null %s, default %s, %s', c.relname, row_number() OVER (PARTITION BY c.oid ORDER BY attnum),
			attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid), attcollation::regcollation) AS x
			FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = c.oid AND adnum = attnum
			WHERE relnamespace = current_schema::regnamespace AND attnum > 0 AND NOT attisdropped
		UNION ALL SELECT format('%s: %s', relname, reloptions) FROM pg_class WHERE relnamespace = current_schema::regnamespace
		UNION ALL SELECT format('%s %s', conname, pg_get_constraintdef(oid)) FROM pg_constraint WHERE connamespace = current_schema::regnamespace
		UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema
		UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = current_schema::regnamespace)
		UNION ALL SELECT format('%s: %s', proname, prosrc) FROM pg_proc WHERE pronamespace = current_schema::regnamespace
	) AS all_of ORDER BY 1`)
}

// Every step leads back to the tables that the steps before it make, with a record in
// them, and forward again.
func TestEveryMigrationBackAndForth(t *testing.T) {
	t.Parallel()
	made := make([]string, postgres.Schema()+1)
	for version := 1; version <= postgres.Schema(); version++ {
		url := schema(t)
		if err := postgres.MakeTables(t.Context(), url, version); err != nil {
			t.Fatal(err)
		}
		made[version] = tables(t, url)
	}
	url := create(t)
	store := openAt(t, url)
	mustCreate(t, store, enrolment(t, 1))
	if err := store.AppendAudit(t.Context(), "log", 1, []string{"{}"}); err != nil {
		t.Fatal(err)
	}
	for version := postgres.Schema(); version > 1; version-- {
		if err := postgres.Back(t.Context(), url, version); err != nil {
			t.Fatal(err)
		}
		if got := tables(t, url); got != made[version-1] {
			t.Errorf("back from %d: %s\nwant %s", version, got, made[version-1])
		}
	}
	if _, err := postgres.Open(t.Context(), url, sealer(t), postgres.Options{}); !errors.Is(err, postgres.ErrOlder) {
		t.Errorf("opening an older version: %v, want ErrOlder", err)
	}
	for version := 2; version < postgres.Schema(); version++ {
		if err := postgres.Forward(t.Context(), url, version); err != nil {
			t.Fatal(err)
		}
		if got := tables(t, url); got != made[version] {
			t.Errorf("forward to %d: %s\nwant %s", version, got, made[version])
		}
	}
	if from, to, err := postgres.Migrate(t.Context(), url); from != postgres.Schema()-1 || to != postgres.Schema() || err != nil {
		t.Errorf("the last step led from %d to %d, %v", from, to, err)
	}
	if got := tables(t, url); got != made[postgres.Schema()] {
		t.Errorf("in the end: %s\nwant %s", got, made[postgres.Schema()])
	}
	if err := whole(t.Context(), openAt(t, url), enrolment(t, 1)); err != nil {
		t.Error(err)
	}
}

// A step is whole or not at all, whichever way it leads.
func TestMigrationThatFails(t *testing.T) {
	t.Parallel()
	const halves = "CREATE TABLE half (a integer); CREATE TABLE data_key (a integer)"
	good := postgres.Migration{Forward: "CREATE TABLE second (a integer)", Back: "DROP TABLE second", Kept: "second"}
	url, newest := create(t), postgres.Schema()
	mustCreate(t, openAt(t, url), enrolment(t, 1))
	if err := postgres.Forward(t.Context(), url, newest, good); err != nil {
		t.Fatal(err)
	}
	before := tables(t, url)
	unchanged := func(what string, err, want error) {
		t.Helper()
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		if got := tables(t, url); got != before {
			t.Errorf("%s leaves %s\nwant %s", what, got, before)
		}
	}
	unchanged("forward", postgres.Forward(t.Context(), url, newest, good, postgres.Migration{Forward: halves}), nil)
	unchanged("back", postgres.Back(t.Context(), url, newest, postgres.Migration{Back: "DROP TABLE second, enrolment; " + halves}), nil)
	_, _, forward := postgres.Migrate(t.Context(), url)
	unchanged("an older program", forward, postgres.ErrNewer)
	_, _, back := postgres.MigrateBack(t.Context(), url)
	unchanged("an older program, back", back, postgres.ErrNewer)
	_, err := postgres.Open(t.Context(), url, sealer(t), postgres.Options{})
	unchanged("opening a newer version", err, postgres.ErrNewer)

	edit(t, url, "INSERT INTO second VALUES (1)")
	err = postgres.Back(t.Context(), url, newest, good)
	unchanged("a loss", err, postgres.ErrIrreversible)
	if !strings.Contains(fmt.Sprint(err), "second is not empty: it counts") {
		t.Errorf("a loss: %v", err)
	}
	edit(t, url, "DELETE FROM second")
	if err := postgres.Back(t.Context(), url, newest, good); err != nil {
		t.Errorf("without a loss: %v", err)
	}
	before = tables(t, url)
	unchanged("one more version back", postgres.Back(t.Context(), url, newest, good), postgres.ErrIrreversible)
	if err := whole(t.Context(), openAt(t, url), enrolment(t, 1)); err != nil {
		t.Error(err)
	}
}

// A way back that waits for a transaction sees what that has written, however little a
// transaction sees by default; and if the server ends it there, nothing has changed.
func TestWayBackWaits(t *testing.T) {
	t.Parallel()
	url := create(t, "default_transaction_isolation", "serializable")
	before := tables(t, url)
	other, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(t.Context())
	const waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE audit_anchor%'"
	backDuring := func(end func()) error {
		t.Helper()
		if _, err := other.Exec(t.Context(), "BEGIN; INSERT INTO audit_anchor VALUES ('log', 1, '', 1)"); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, _, err := postgres.MigrateBack(t.Context(), url)
			ended <- err
		}()
		for edit(t, url, "SELECT count(*) "+waiting) == "0" {
			time.Sleep(10 * time.Millisecond)
		}
		end()
		return <-ended
	}
	finish := func(how string) {
		t.Helper()
		if _, err := other.Exec(t.Context(), how); err != nil {
			t.Fatal(err)
		}
	}
	err = backDuring(func() { edit(t, url, "SELECT pg_terminate_backend(pid) "+waiting) })
	if err == nil || errors.Is(err, postgres.ErrIrreversible) {
		t.Errorf("ended by the server: %v", err)
	}
	finish("ROLLBACK")
	if err := backDuring(func() { finish("COMMIT") }); !errors.Is(err, postgres.ErrIrreversible) {
		t.Errorf("after an anchor: %v, want ErrIrreversible", err)
	}
	if got := tables(t, url); got != before {
		t.Errorf("in the end %s\nwant %s", got, before)
	}
}
