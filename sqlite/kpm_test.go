package sqlite_test

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"muster"
	"muster/mef"
)

// No Kpm stands in the file as it is, and one that an edit of the file gives to
// another Enrolee or identifier does not open.
func TestKpmsAreSealed(t *testing.T) {
	t.Parallel()
	path := create(t)
	store := openAt(t, path)
	e := enrolment(t, 1)
	kpm, err := muster.NewKpm(e.Ke.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	id, err := muster.ParseKpmID("device-1@factory.example.org")
	if err != nil {
		t.Fatal(err)
	}
	list := mef.Import{Kpms: []mef.ProvisionedKpm{{KpmID: id, EnroleeID: e.EnroleeID, Kpm: kpm, Created: e.Created}}}
	if _, err := store.ImportKpms(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	if got, err := store.Kpm(t.Context(), id, e.Created); err != nil || !got.Kpm.Equal(kpm) {
		t.Fatal(got, err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	octets, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(octets, kpm.Reveal()) {
		t.Error("the key stands in the file")
	}
	edit(t, path, "UPDATE kpm SET enrolee_id = '//sp.example.org/thief'")
	store = openAt(t, path)
	if got, err := store.Kpm(t.Context(), id, e.Created); err == nil || errors.Is(err, mef.ErrUnknown) || !got.Kpm.IsZero() {
		t.Errorf("the key of another Enrolee: %v, %v", got, err)
	}
	if _, err := store.ImportKpms(t.Context(), mef.Import{Kpms: []mef.ProvisionedKpm{{KpmID: id}}}); err == nil {
		t.Error("a key without octets is imported")
	}
}
