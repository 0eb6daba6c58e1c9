package postgres

import (
	"context"
	"sync"

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
type Migration struct{ Forward, Back string }

// MigrateTo goes to a version of a schema that has more steps than Muster knows,
// counted from the last that it knows.
func MigrateTo(ctx context.Context, connection string, more []Migration, target int) error {
	steps := migrations()
	target += len(steps)
	for _, m := range more {
		steps = append(steps, migration{m.Forward, m.Back})
	}
	return migrateTo(ctx, connection, steps, target)
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
