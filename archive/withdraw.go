package archive

// Withdrawn counts what a store that has returned to an earlier state took back,
// since it may have ended after that.
type Withdrawn struct{ Enrolments, Credentials, KeIDs, Keys, Kpms int }

// A Withdrawal is a statement on a table, in the SQL of every engine, and where the
// number of rows that it changes goes.
type Withdrawal struct {
	Count     *int
	Table     string
	Statement string
}

// Statements returns what withdraws, in one transaction, whatever an earlier state
// cannot know to be still good: keys of enrolments that wait for their MAF, all
// credentials of an Enrolee but the newest, KeIDs, registered keys, and
// pre-provisioned keys.
func (w *Withdrawn) Statements() []Withdrawal {
	return []Withdrawal{
		{&w.Enrolments, "enrolment", "UPDATE enrolment SET state = 3, sealed = NULL, data_key = NULL WHERE state IN (1, 2)"},
		{&w.Credentials, "credential", `UPDATE credential SET state = 4, sealed = NULL, data_key = NULL WHERE state IN (1, 2)
			AND EXISTS (SELECT 1 FROM credential AS newer WHERE newer.enrolee_id = credential.enrolee_id
				AND newer.generation > credential.generation AND newer.state IN (1, 2))`},
		{&w.KeIDs, "credential", "UPDATE credential SET state = 2 WHERE state = 1"},
		{&w.Keys, "key_registration", "UPDATE key_registration SET state = 3, sealed = NULL, data_key = NULL WHERE state = 1"},
		{&w.Kpms, "kpm", "DELETE FROM kpm WHERE state IN (1, 2)"},
	}
}
