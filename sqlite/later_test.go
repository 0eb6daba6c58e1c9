package sqlite_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"muster"
	"muster/archive"
	"muster/maf"
	"muster/mef"
	"muster/sqlite"
	"muster/tef"
)

// A laterScene has a store of which a backup was made, and in which things ended
// after that.
type laterScene struct {
	path, backup string
	e            mef.Enrolment
	c            maf.Credential
	k            mef.ProvisionedKpm
	kept, gone   tef.ClientRegistration
	key          tef.KeyRegistration
}

func newLaterScene(t *testing.T) (s laterScene) {
	t.Helper()
	path, store, e, c, k := filled(t)
	s = laterScene{path: path, backup: filepath.Join(t.TempDir(), "backup"), e: e, c: c, k: k}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	function := e.KeID.MEF()
	for i, r := range []*tef.ClientRegistration{&s.kept, &s.gone} {
		*r = tef.ClientRegistration{
			ID: fmt.Sprintf("reg%d", i), Function: function, ClientID: e.EnroleeID, AdminFQDN: function,
			Created: e.Created, Modified: e.Created, Expires: e.Expires,
		}
		_, err := store.PutRegistration(t.Context(), *r)
		must(err)
	}
	for n := range 3 {
		must(store.QueueCommand(t.Context(), tef.QueuedCommand{Function: function, Registration: s.kept.ID, Created: e.Created, Command: tef.Command{
			ID: fmt.Sprintf("cmd%d", n), Description: tef.CommandDescription{
				Class: tef.ClassNode, Node: &tef.NodeProcessing{Path: "./x", Type: tef.NodeTrustAnchor},
			},
		}}))
	}
	kc, err := muster.NewKc(e.Ke.Reveal())
	must(err)
	s.key = tef.KeyRegistration{
		ID: tef.NewKeyID(enrolment(t, 9).KeID.Relative(), function), Source: e.EnroleeID, AdminFQDN: function, Usage: muster.SUIDForSAEF, Key: kc,
		Targets: []string{"//sp.example.org/friend", "//sp.example.org/stranger"}, Created: e.Created, Modified: e.Created, Expires: e.Expires,
	}
	_, err = store.CreateKey(t.Context(), s.key, 9)
	must(err)
	_, err = sqlite.Backup(t.Context(), path, s.backup, sealer(t))
	must(err)

	_, err = store.IssueCommand(t.Context(), function, s.kept.ID, e.Created)
	must(err)
	must(store.ReportCommand(t.Context(), function, s.kept.ID, "cmd0", 20, e.Created))
	must(store.DeleteRegistration(t.Context(), function, e.EnroleeID, s.gone.ID))
	must(store.EraseEnrolment(t.Context(), e.KeID, e.Targets[0]))
	must(store.ActivateKmID(t.Context(), c.KmID, c.Created))
	fewer := s.key
	fewer.Targets = fewer.Targets[:1]
	_, err = store.UpdateKey(t.Context(), fewer)
	must(err)
	must(store.Close())
	return s
}

func (s laterScene) restore(t *testing.T, keep bool, later archive.Later) (*sqlite.Store, archive.Withdrawn, archive.Carried) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "restored.db")
	w, c, err := sqlite.Restore(t.Context(), s.backup, path, sealer(t), keep, later)
	if err != nil {
		t.Fatal(err)
	}
	if report, err := sqlite.Check(t.Context(), path, sealer(t)); err != nil || !report.Sound() {
		t.Errorf("the restored store: %+v, %v", report, err)
	}
	return openAt(t, path), w, c
}

// What a later store shows as ended is ended in the restored one, and with
// --accept-older nothing else is.
func TestRestoreWithLeftover(t *testing.T) {
	t.Parallel()
	s := newLaterScene(t)
	function := s.e.KeID.MEF()
	for _, later := range []archive.Later{nil, sqlite.Leftover(s.path)} {
		store, w, c := s.restore(t, true, later)
		known := later != nil
		if want := (archive.Carried{Ended: 3, Gone: 1}); known && (c.Ended != want.Ended || c.Gone != want.Gone || len(c.Unread) > 0) {
			t.Errorf("carried over %+v, want %+v", c, want)
		}
		if w != (archive.Withdrawn{}) {
			t.Errorf("withdrawn %+v", w)
		}
		command, err := store.IssueCommand(t.Context(), function, s.kept.ID, s.e.Created)
		if want := map[bool]string{false: "cmd0", true: "cmd1"}[known]; err != nil || command.ID != want {
			t.Errorf("known %t: the command %q is issued, want %q; %v", known, command.ID, want, err)
		}
		_, gone := store.Registration(t.Context(), function, s.e.EnroleeID, s.gone.ID, s.e.Created)
		_, fetched := store.FetchEnrolment(t.Context(), mef.Fetch{KeID: s.e.KeID, MAF: s.e.Targets[0], Now: s.e.Created, Window: time.Hour, Max: 9})
		_, byKeID := store.CredentialByKeID(t.Context(), s.c.KeID, s.c.Created)
		_, stranger := store.Key(t.Context(), s.key.ID, s.key.Targets[1], s.e.Created)
		for what, err := range map[string]error{"a deleted registration": gone, "an erased Ke": fetched, "a KeID": byKeID, "the key for a former target": stranger} {
			if (err != nil) != known {
				t.Errorf("known %t: %s: %v", known, what, err)
			}
		}
		_, kept := store.Registration(t.Context(), function, s.e.EnroleeID, s.kept.ID, s.e.Created)
		_, kpm := store.Kpm(t.Context(), s.k.KpmID, s.k.Created)
		_, byKmID := store.CredentialByKmID(t.Context(), s.c.KmID, s.c.Created)
		_, friend := store.Key(t.Context(), s.key.ID, s.key.Targets[0], s.e.Created)
		for what, err := range map[string]error{"a registration": kept, "a Kpm": kpm, "a KmID": byKmID, "the key for a target": friend} {
			if err != nil {
				t.Errorf("known %t: %s: %v", known, what, err)
			}
		}
	}
	if _, w, _ := s.restore(t, false, sqlite.Leftover(s.path)); w != (archive.Withdrawn{Keys: 1, Kpms: 1}) {
		t.Errorf("withdrawn of what had not ended: %+v", w)
	}
}

// Of a table that is damaged what can be read counts, and the rest is withdrawn
// whatever is accepted.
func TestRestoreWithDamagedLeftover(t *testing.T) {
	t.Parallel()
	s := newLaterScene(t)
	intact := sqlite.Leftover(s.path)
	halves := func(damaged string) archive.Later {
		return func(ctx context.Context, table archive.Table, visit func(archive.Record) error) error {
			if table.Name == damaged {
				return errors.New("the disk is damaged")
			}
			return intact(ctx, table, visit)
		}
	}
	for damaged, want := range map[string]archive.Withdrawn{
		"enrolment": {Enrolments: 1}, "credential": {KeIDs: 1}, "key_registration": {Keys: 1}, "kpm": {Kpms: 1}, "command": {}, "registration": {},
	} {
		_, w, c := s.restore(t, true, halves(damaged))
		if w != want || len(c.Unread) != 1 || c.Unread[0] != damaged {
			t.Errorf("%s: withdrawn %+v, want %+v; carried over %+v", damaged, w, want, c)
		}
	}

	// The first page of a table is gone, or that of one of its indexes.
	for _, part := range []string{"registration", "sqlite_autoindex_registration_1"} {
		octets, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		page, err1 := strconv.Atoi(query(t, s.path, "SELECT rootpage FROM sqlite_schema WHERE name = '"+part+"'"))
		size, err2 := strconv.Atoi(query(t, s.path, "PRAGMA page_size"))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		copy(octets[(page-1)*size:page*size], bytes.Repeat([]byte{0xff}, size))
		torn := filepath.Join(t.TempDir(), "torn.db")
		if err := os.WriteFile(torn, octets, 0o600); err != nil {
			t.Fatal(err)
		}
		store, _, c := s.restore(t, true, sqlite.Leftover(torn))
		if len(c.Unread) != 1 || c.Unread[0] != "registration" || c.Ended != 3 {
			t.Errorf("without the first page of %s: carried over %+v", part, c)
		}
		if _, err := store.Registration(t.Context(), s.e.KeID.MEF(), s.e.EnroleeID, s.gone.ID, s.e.Created); err != nil {
			t.Errorf("without the first page of %s: what is not known to be gone: %v", part, err)
		}
	}
}

// A store that is another one, or earlier, or none, tells nothing.
func TestRestoreWithWrongLeftover(t *testing.T) {
	t.Parallel()
	s := newLaterScene(t)
	other, store, _, _, _ := filled(t)
	earlier := filepath.Join(t.TempDir(), "earlier")
	_, err := sqlite.Backup(t.Context(), other, earlier, sealer(t))
	if err == nil {
		_, err = store.CreateEnrolment(t.Context(), enrolment(t, 2), 9)
	}
	if err = errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct{ backup, later string }{
		"another store":    {s.backup, other},
		"an earlier store": {other, earlier},
		"no file":          {s.backup, filepath.Join(t.TempDir(), "none")},
	} {
		path := filepath.Join(t.TempDir(), "restored.db")
		_, _, err := sqlite.Restore(t.Context(), c.backup, path, sealer(t), false, sqlite.Leftover(c.later))
		if err == nil || (what == "an earlier store") != errors.Is(err, archive.ErrEarlier) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s: a store was made", what)
		}
	}
}
