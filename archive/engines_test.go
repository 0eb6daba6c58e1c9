package archive_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/archive"
	"muster/maf"
	"muster/mef"
	"muster/mustertest"
	"muster/postgres"
	"muster/seal"
	"muster/sqlite"
	"muster/tef"
)

// cluster is the PostgreSQL server of all tests, each of which has schemas of its
// own. It is started by the first that needs it.
var cluster struct {
	*mustertest.Cluster
	err     error
	once    sync.Once
	schemas atomic.Int64
}

func TestMain(m *testing.M) {
	code := m.Run()
	if cluster.Cluster != nil {
		if err := cluster.Remove(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func sealer(t testing.TB, root byte) *seal.Sealer {
	t.Helper()
	key, err := seal.NewRoot(bytes.Repeat([]byte{root}, seal.RootSize))
	if err != nil {
		t.Fatal(err)
	}
	return seal.New(key, rand.Reader)
}

// A store is what both engines are.
type store interface {
	mef.Store
	mef.KpmStore
	maf.Store
	tef.Store
	tef.KeyStore
	tef.CommandStore
	AppendAudit(ctx context.Context, log string, first uint64, lines []string) error
	PruneAudit(ctx context.Context, log string, seq uint64, hash muster.Digest) error
	Close() error
}

// An engine is one of those between which archives go.
type engine struct {
	name     string
	place    func(t testing.TB) string // where a store may be made
	create   func(ctx context.Context, place string, s *seal.Sealer) error
	open     func(ctx context.Context, place string, s *seal.Sealer) (store, error)
	records  func(ctx context.Context, place string) iter.Seq2[archive.Record, error]
	fill     func(ctx context.Context, place string, records iter.Seq2[archive.Record, error], o archive.Opener, keep bool) (archive.Withdrawn, *archive.Report, error)
	check    func(ctx context.Context, place string, o archive.Opener) (*archive.Report, error)
	withdraw func(ctx context.Context, place string, o archive.Opener, keep bool, later archive.Later) (archive.Withdrawn, archive.Carried, error)
	exists   error // of a store in the place

	migrate, migrateBack func(ctx context.Context, place string) (from, to int, err error)
	older, irreversible  error
}

func onSQLite() engine {
	return engine{
		name:   sqlite.Engine,
		place:  func(t testing.TB) string { return filepath.Join(t.TempDir(), "muster.db") },
		create: func(ctx context.Context, place string, s *seal.Sealer) error { return sqlite.Create(ctx, place, s) },
		open: func(ctx context.Context, place string, s *seal.Sealer) (store, error) {
			return sqlite.Open(ctx, place, s, sqlite.Options{})
		},
		records: sqlite.Export, fill: sqlite.Import, check: sqlite.Check, withdraw: sqlite.Withdraw, exists: fs.ErrExist,
		migrate: sqlite.Migrate, migrateBack: sqlite.MigrateBack, older: sqlite.ErrOlder, irreversible: sqlite.ErrIrreversible,
	}
}

func onPostgres() engine {
	return engine{
		name: postgres.Engine,
		place: func(t testing.TB) string {
			cluster.once.Do(func() { cluster.Cluster, cluster.err = mustertest.StartCluster("fsync=off", "full_page_writes=off") })
			mustertest.SkipWithoutPostgreSQL(t, cluster.err)
			if cluster.err != nil {
				t.Fatal(cluster.err)
			}
			name := fmt.Sprintf("a%d", cluster.schemas.Add(1))
			if _, err := cluster.SQL("CREATE SCHEMA " + name); err != nil {
				t.Fatal(err)
			}
			return cluster.URL("search_path", name)
		},
		create: func(ctx context.Context, place string, s *seal.Sealer) error { return postgres.Create(ctx, place, s) },
		open: func(ctx context.Context, place string, s *seal.Sealer) (store, error) {
			return postgres.Open(ctx, place, s, postgres.Options{})
		},
		records: postgres.Export, fill: postgres.Import, check: postgres.Check, withdraw: postgres.Withdraw, exists: postgres.ErrExists,
		migrate: postgres.Migrate, migrateBack: postgres.MigrateBack, older: postgres.ErrOlder, irreversible: postgres.ErrIrreversible,
	}
}

// eachEngine runs a test on both.
func eachEngine(t *testing.T, test func(t *testing.T, e engine)) {
	for _, e := range []engine{onSQLite(), onPostgres()} {
		t.Run(e.name, func(t *testing.T) { t.Parallel(); test(t, e) })
	}
}

// made returns a store with records of every kind and state, which is open.
func (e engine) made(t testing.TB) (place string, s store) {
	t.Helper()
	place, s = e.unpruned(t)
	if err := s.PruneAudit(t.Context(), "mef-1", 1, digest(1)); err != nil {
		t.Fatal(err)
	}
	return place, s
}

// unpruned returns such a store whose audit logs have no anchor.
func (e engine) unpruned(t testing.TB) (place string, s store) {
	t.Helper()
	place = e.place(t)
	if err := e.create(t.Context(), place, sealer(t, 0)); err != nil {
		t.Fatal(err)
	}
	s = e.opened(t, place)
	populate(t, s)
	return place, s
}

func (e engine) opened(t testing.TB, place string) store {
	t.Helper()
	s, err := e.open(t.Context(), place, sealer(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// written returns the archive of a store.
func (e engine) written(t testing.TB, place string) []byte {
	t.Helper()
	var out bytes.Buffer
	report := archive.NewReport()
	err := archive.Write(&out, header(e.name), report.Watch(e.records(t.Context(), place), sealer(t, 0)))
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func header(engine string) archive.Header {
	return archive.Header{Engine: engine, Schema: 4, Function: "mef.example.org", Created: time.Unix(1800000000, 0).UTC()}
}

// read returns the records of an archive.
func read(t testing.TB, text []byte) iter.Seq2[archive.Record, error] {
	t.Helper()
	reader, err := archive.NewReader(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return reader.Records()
}

// records returns the lines of an archive without its first and its last.
func records(text []byte) string {
	lines := strings.SplitAfter(string(text), "\n")
	return strings.Join(lines[1:len(lines)-2], "")
}

func fqdn(t testing.TB, s string) muster.FQDN {
	t.Helper()
	f, err := muster.ParseFQDN(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func enrolee(t testing.TB, n int) muster.EnroleeID {
	t.Helper()
	id, err := muster.ParseEnroleeID(fmt.Sprintf("//sp.example.org/device%d", n))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// now is the time of all records.
func now() time.Time { return time.Unix(1800000000, 0).UTC() }

func digest(n int) muster.Digest { return sha256.Sum256(fmt.Appendf(nil, "%d", n)) }

func octets(n int) []byte { d := digest(n); return d[:] }

func enrolment(t testing.TB, of, n int, targets ...string) mef.Enrolment {
	t.Helper()
	ke, err := muster.NewKe(octets(1000 + n))
	if err != nil {
		t.Fatal(err)
	}
	e := mef.Enrolment{
		KeID: muster.NewKeID([muster.RelativeSize]byte(octets(n)), fqdn(t, "mef.example.org")), EnroleeID: enrolee(t, of),
		Session: digest(n), Certificate: digest(-of), Ke: ke, Created: now(), Expires: now().Add(24 * time.Hour),
	}
	for _, target := range targets {
		e.Targets = append(e.Targets, fqdn(t, target))
	}
	return e
}

// populate brings records of every kind to every state that a store can reach.
func populate(t testing.TB, s store) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const maf1, maf2 = "maf.example.org", "a.maf.example.org"
	// Enrolments: one waits, one is fetched for one MAF, one erased, one superseded, one expired.
	for n := range 8 {
		e := enrolment(t, n%5, n, maf1, maf2)
		if n == 4 {
			e.Expires = now().Add(time.Minute)
		}
		stored, err := s.CreateEnrolment(ctx, e, 9)
		must(err)
		if n == 1 {
			_, err := s.FetchEnrolment(ctx, mef.Fetch{KeID: e.KeID, MAF: stored.Targets[0], Now: now(), Window: time.Hour, Max: 9})
			must(err)
		}
		if n == 2 {
			must(s.EraseEnrolment(ctx, e.KeID, stored.Targets[1]))
		}
	}
	_, err := s.Sweep(ctx, now().Add(2*time.Minute), time.Hour, time.Hour, 100)
	must(err)
	// Credentials: one is used by its KeID, one by its KmID, which retired another.
	for n := range 4 {
		e := enrolment(t, n%3, n)
		km, err := e.Ke.MasterCredential(muster.ProfileMasterCredential, fqdn(t, maf1))
		must(err)
		c := maf.Credential{
			KmID: km.KmID(fqdn(t, maf1)), KeID: e.KeID, EnroleeID: e.EnroleeID, MAF: fqdn(t, maf1), Km: km,
			Created: e.Created, Expires: e.Expires, KeIDUntil: now().Add(time.Hour),
		}
		must(s.PutCredential(ctx, c))
		if n == 3 {
			must(s.ActivateKmID(ctx, c.KmID, now()))
		}
	}
	for n, labels := range [][]string{nil, {"a", `quote " and <tag> and ` + "\u2028"}} {
		r := tef.ClientRegistration{
			ID: fmt.Sprintf("reg%d", n), Function: fqdn(t, maf1), ClientID: enrolee(t, n), AdminFQDN: fqdn(t, "admin.example.org"), Labels: labels,
			Created: now(), Modified: now(), Expires: now().Add(time.Hour),
		}
		_, err := s.PutRegistration(ctx, r)
		must(err)
	}
	keys(t, s)
	commands(t, s)
	var list mef.Import
	for n := range 3 {
		id, err1 := muster.ParseKpmID(fmt.Sprintf("device-%d@factory.example.org", n))
		kpm, err2 := muster.NewKpm(octets(3000 + n))
		must(errors.Join(err1, err2))
		list.Kpms = append(list.Kpms, mef.ProvisionedKpm{KpmID: id, EnroleeID: enrolee(t, n%2), Kpm: kpm, Created: now()})
	}
	list.Overlap = time.Hour
	_, err = s.ImportKpms(ctx, list)
	must(err)
	must(s.ActivateKpm(ctx, list.Kpms[2].KpmID, now()))
	must(s.AppendAudit(ctx, "mef-1", 1, []string{`{"seq":1}`, `{"seq":2,"what":"<é>"}`, `{"seq":3}`}))
	must(s.AppendAudit(ctx, "maf-1", 7, []string{`{"seq":7}`}))
}

func keys(t testing.TB, s store) {
	t.Helper()
	for n := range 3 {
		e := enrolment(t, n, 50+n)
		r := tef.KeyRegistration{
			ID: tef.NewKeyID(e.KeID.Relative(), fqdn(t, "maf.example.org")), Source: e.EnroleeID, AdminFQDN: fqdn(t, "maf.example.org"),
			Usage: muster.SUIDForSAEF, Created: now(), Modified: now(), Expires: now().Add(time.Hour),
		}
		var err error
		if n > 0 {
			r.Key, err = muster.NewKc(octets(2000 + n))
			r.Targets, r.Labels, r.Latest = []string{"//sp.example.org/z", "//sp.example.org/b"}, []string{"x"}, now().Add(2*time.Hour)
		}
		if err == nil {
			_, err = s.CreateKey(t.Context(), r, 9)
		}
		if n == 1 && err == nil {
			_, err = s.FetchKey(t.Context(), tef.KeyFetch{ID: r.ID, Target: r.Targets[0], Now: now(), Window: time.Hour, Max: 9})
		}
		if n == 2 && err == nil {
			err = s.DeleteKey(t.Context(), r.ID, r.Source)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func commands(t testing.TB, s store) {
	t.Helper()
	f := fqdn(t, "mef.example.org")
	for n := range 6 {
		c := tef.QueuedCommand{Function: f, Registration: fmt.Sprintf("reg%d", n%2), Created: now(), Command: tef.Command{
			ID: fmt.Sprintf("cmd%d", 9-n), Description: tef.CommandDescription{
				Class: tef.ClassNode, Node: &tef.NodeProcessing{Path: fmt.Sprintf("./%d", n), Type: tef.NodeTrustAnchor},
			},
		}}
		if err := s.QueueCommand(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	c, err := s.IssueCommand(t.Context(), f, "reg1", now())
	if err == nil {
		err = s.ReportCommand(t.Context(), f, "reg1", c.ID, 20, now())
	}
	if err == nil {
		_, err = s.IssueCommand(t.Context(), f, "reg1", now())
	}
	if err != nil {
		t.Fatal(err)
	}
}
