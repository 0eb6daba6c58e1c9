package postgres

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"muster/tef"
)

// MaxBatch is how many writes share a transaction.
const MaxBatch = maxBatch

// Occupy keeps all writers busy until release is called.
func (s *Store) Occupy() (release func()) {
	gate := make(chan struct{})
	var waiting sync.WaitGroup
	for _, w := range s.write {
		waiting.Add(1)
		k := &kind[struct{}, struct{}]{busy: tef.ErrBusy, run: func(context.Context, *pgxpool.Conn, []struct{}, []outcome[struct{}]) error {
			waiting.Done()
			<-gate
			return nil
		}}
		if err := w.enqueue(&write[struct{}, struct{}]{kind: k, queued: s.now(), done: make(chan outcome[struct{}], 1)}); err != nil {
			panic(err)
		}
	}
	waiting.Wait()
	return func() { close(gate) }
}

// Waiting returns how many writes are in the queues.
func (s *Store) Waiting() (n int) {
	for _, w := range s.write {
		n += len(w.queue)
	}
	return n
}

// A Migration leads from one version of the schema to the next, and back.
type Migration struct{ Forward, Back, Kept string }

// steps are the first that Muster knows, and more.
func steps(known int, more []Migration) []migration {
	all := migrations()[:known]
	for _, m := range more {
		all = append(all, migration{m.Forward, m.Back, m.Kept, "it counts"})
	}
	return all
}

// MakeTables makes the tables of an older version.
func MakeTables(ctx context.Context, connection string, version int) error {
	conn, err := connectOnce(ctx, connection)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return makeTables(ctx, tx, steps(version, nil)) })
}

// Forward goes to the last of some steps, and Back from there to the one before.
func Forward(ctx context.Context, connection string, known int, more ...Migration) error {
	_, err := migrate(ctx, connection, steps(known, more))
	return err
}

func Back(ctx context.Context, connection string, known int, more ...Migration) error {
	return migrateBack(ctx, connection, steps(known, more))
}

// SessionSettings are the settings of every connection.
func SessionSettings() map[string]string { return sessionSettings() }

// Statements returns what runs on tables that grow.
func Statements() []string {
	all := []string{
		holdDataKey, holdUnused, deleteUnused,
		selectEnrolments, selectEnrolees, insertFirstParts, insertOtherParts, holdUnfetched, withdrawExcess, supersedeEnrolments, forgetUnfetched, touchEnrolments,
		fetchEnrolments, eraseReplaced, eraseEnrolments, selectEnrolmentFor, selectEnrolmentOf, forgetEnrolments, expireEnrolments, closeWindows,
		selectCredentials, insertCredentials, touchCredentials, activateKmIDs, retireOlder, limitKeIDs,
		credentialByKeID, credentialByKmID, selectActivated, selectKeIDUntil, forgetCredentials, expireCredentials,
		putRegistrations, selectRegistration, selectRegistrations, deleteRegistrations, sweepRegistrations,
		listEnrolments, listEnrolmentsByKeID, listCredentials, listCredentialsByKeID, listCredentialsByKmID, listKeys, listKpms,
		selectKey, selectKeyFor, countKeys, insertKey, updateKey, fetchKey, deleteKey, sweepKeys,
		selectKpms, selectKpm, insertKpms, replaceKpms, endOlderKpms, selectKpmActivated, activateKpm, eraseOlderKpms, sweepKpms,
		selectDescription, insertCommand, issueCommand, reportCommand, selectPending, selectCommands, sweepCommands,
	}
	for _, table := range sealedTables() {
		all = append(all, table.older, table.swap)
	}
	return all
}
