package sqlite

import (
	"errors"

	"muster"
	"muster/archive"
	"muster/tef"
)

// A sealedTable is a table whose rows hold sealed keys.
type sealedTable struct {
	name, columns string
	// open scans the columns of a row and opens its key. An error says why it
	// does not open, and comes with what else is known of the row.
	open func(s *Store, scan func(...any) error) (openedRow, error)
}

// An openedRow is a row with its key in the clear and the record that it is bound
// to. Where the key was erased, sealed is nil.
type openedRow struct {
	rowid       int64
	sealed, key []byte
	binding     []string
}

const sealedTableCount = 4

func sealedTables() [sealedTableCount]sealedTable {
	return [...]sealedTable{
		{"enrolment", "rowid, ke_id, maf_id, enrolee_id, generation, session, certificate, data_key, sealed, created, expires", (*Store).openEnrolment},
		{"credential", "rowid, ke_id, km_id, enrolee_id, maf_id, data_key, sealed, created, expires, ke_id_until", (*Store).openCredential},
		{"key_registration", "rowid, key_id, source_id, admin_fqdn, usage, labels, data_key, sealed, created, modified, expires, latest", (*Store).openKey},
		{"kpm", "rowid, kpm_id, enrolee_id, data_key, sealed, created, until", (*Store).openKpm},
	}
}

func (s *Store) openEnrolment(scan func(...any) error) (r openedRow, err error) {
	var octets []byte
	var target string
	var e scannedEnrolment
	err = scan(append([]any{&r.rowid, &octets, &target}, e.columns()...)...)
	r.sealed = e.sealed
	id, err1 := archive.KeIDFrom(octets)
	maf, err2 := muster.ParseFQDN(target)
	if err := errors.Join(err, err1, err2); err != nil {
		return r, err
	}
	opened, err := s.assembleEnrolment(id, maf, e)
	r.key, r.binding = opened.Ke.Reveal(), bindEnrolment(opened, maf)
	return r, err
}

func (s *Store) openCredential(scan func(...any) error) (r openedRow, err error) {
	var c scannedCredential
	err = scan(&r.rowid, &c.keID, &c.kmID, &c.enrolee, &c.maf, &c.dataKey, &c.sealed, &c.created, &c.expires, &c.keIDUntil)
	r.sealed = c.sealed
	if err != nil {
		return r, err
	}
	opened, err := s.assembleCredential(c)
	r.key, r.binding = opened.Km.Reveal(), bindCredential(opened)
	return r, err
}

func (s *Store) openKey(scan func(...any) error) (r openedRow, err error) {
	var octets []byte
	var k scannedKey
	err = scan(append([]any{&r.rowid, &octets}, k.columns()...)...)
	r.sealed = k.sealed
	id, err1 := archive.KeIDFrom(octets)
	if err := errors.Join(err, err1); err != nil {
		return r, err
	}
	opened, err := s.assembleKey(tef.NewKeyID(id.Relative(), id.MEF()), k)
	r.key, r.binding = opened.Key.Reveal(), bindKey(opened)
	return r, err
}

func (s *Store) openKpm(scan func(...any) error) (r openedRow, err error) {
	var text string
	var k scannedKpm
	err = scan(append([]any{&r.rowid, &text}, k.columns()...)...)
	r.sealed = k.sealed
	id, err1 := muster.ParseKpmID(text)
	if err := errors.Join(err, err1); err != nil {
		return r, err
	}
	opened, err := s.assembleKpm(id, k)
	r.key, r.binding = opened.Kpm.Reveal(), bindKpm(opened)
	return r, err
}
