package archive

import (
	"time"

	"muster"
)

// The names to which keys are sealed are the same in each engine, so that a sealed
// key moves from one to another as it is. What an update of a record changes is no
// part of the name; its expiry is, so that whoever edits a database does not prolong
// a key.

// BindKe names the record of a Ke for one MAF.
func BindKe(id muster.KeID, target muster.FQDN, enrolee muster.EnroleeID, expires time.Time) []string {
	return []string{"Ke", id.MEF().String(), id.String(), target.String(), enrolee.String(), stamp(expires)}
}

// BindKm names the record of a Km.
func BindKm(maf muster.FQDN, id muster.KmID, of muster.KeID, enrolee muster.EnroleeID, expires time.Time) []string {
	return []string{"Km", maf.String(), id.String(), of.String(), enrolee.String(), stamp(expires)}
}

// BindKey names the record of a registered key. The time latest may be zero.
func BindKey(id muster.KeID, source muster.EnroleeID, admin muster.FQDN, usage muster.SUID, latest time.Time) []string {
	end := ""
	if !latest.IsZero() {
		end = stamp(latest)
	}
	return []string{"registered key", id.MEF().String(), id.String(), source.String(), admin.String(), usage.String(), end}
}

// BindKpm names the record of a Kpm.
func BindKpm(id muster.KpmID, enrolee muster.EnroleeID) []string {
	return []string{"Kpm", id.Issuer().String(), id.String(), enrolee.String()}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
