package postgres_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/mef"
	"muster/mustertest"
	"muster/postgres"
	"muster/seal"
)

// shared is the server of all tests that do not hurt it; each has a schema of its
// own. It does not sync: these tests are not about the loss of power.
var shared struct {
	cluster *mustertest.Cluster
	err     error
	schemas atomic.Int64
}

func TestMain(m *testing.M) {
	if _, ok := os.LookupEnv(victimVariable); !ok {
		shared.cluster, shared.err = mustertest.StartCluster("fsync=off", "full_page_writes=off")
	}
	code := m.Run()
	if shared.cluster != nil {
		if err := shared.cluster.Remove(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func cluster(t testing.TB) *mustertest.Cluster {
	t.Helper()
	mustertest.SkipWithoutPostgreSQL(t, shared.err)
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

func sealer(t testing.TB) *seal.Sealer {
	t.Helper()
	root, err := seal.NewRoot(make([]byte, seal.RootSize))
	if err != nil {
		t.Fatal(err)
	}
	return seal.New(root, rand.Reader)
}

// schema makes an empty schema on the shared server and returns a URL that leads to it.
func schema(t testing.TB, parameters ...string) string {
	t.Helper()
	server := cluster(t)
	name := fmt.Sprintf("s%d", shared.schemas.Add(1))
	if _, err := server.SQL("CREATE SCHEMA " + name); err != nil {
		t.Fatal(err)
	}
	return server.URL(append([]string{"search_path", name}, parameters...)...)
}

// create makes a database in a schema of its own and returns its URL.
func create(t testing.TB, parameters ...string) string {
	t.Helper()
	url := schema(t, parameters...)
	if err := postgres.Create(t.Context(), url, sealer(t)); err != nil {
		t.Fatal(err)
	}
	return url
}

func openAt(t testing.TB, url string) *postgres.Store {
	t.Helper()
	return openWith(t, url, postgres.Options{})
}

func openWith(t testing.TB, url string, options postgres.Options) *postgres.Store {
	t.Helper()
	store, err := postgres.Open(t.Context(), url, sealer(t), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return store
}

func opener(parameters ...string) func(t testing.TB) (*postgres.Store, func() *postgres.Store) {
	return func(t testing.TB) (*postgres.Store, func() *postgres.Store) {
		url := create(t, parameters...)
		store := openAt(t, url)
		return store, func() *postgres.Store {
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			return openAt(t, url)
		}
	}
}

func TestMEFStore(t *testing.T) { mustertest.MEFStore(t, opener()) }
func TestMAFStore(t *testing.T) { mustertest.MAFStore(t, opener()) }
func TestTEFStore(t *testing.T) { mustertest.TEFStore(t, opener()) }

func TestKeyStore(t *testing.T)     { mustertest.KeyStore(t, opener()) }
func TestKpmStore(t *testing.T)     { mustertest.KpmStore(t, opener()) }
func TestCommandStore(t *testing.T) { mustertest.CommandStore(t, opener()) }
func TestAuditStore(t *testing.T)   { mustertest.AuditStore(t, opener()) }
func TestRegisters(t *testing.T)    { mustertest.Registers(t, opener()) }

func sealedOpener(parameters ...string) func(t testing.TB) (*postgres.Store, func() *postgres.Store, func(string) string) {
	return func(t testing.TB) (*postgres.Store, func() *postgres.Store, func(string) string) {
		url := create(t, parameters...)
		store := openAt(t, url)
		reopen := func() *postgres.Store {
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			store = openAt(t, url)
			return store
		}
		return store, reopen, func(statement string) string { return edit(t, url, statement) }
	}
}

func TestSealedStore(t *testing.T) { mustertest.SealedStore(t, sealedOpener()) }

// Databases that know no weaker isolation than this one keep the contracts too.
func TestSerializable(t *testing.T) {
	if testing.Short() {
		t.Skip("the same suites run without -short")
	}
	serializable := opener("default_transaction_isolation", "serializable")
	t.Run("MEF", func(t *testing.T) { mustertest.MEFStore(t, serializable) })
	t.Run("MAF", func(t *testing.T) { mustertest.MAFStore(t, serializable) })
	t.Run("TEF", func(t *testing.T) { mustertest.TEFStore(t, serializable) })
	t.Run("keys", func(t *testing.T) { mustertest.KeyStore(t, serializable) })
	t.Run("pre-provisioned keys", func(t *testing.T) { mustertest.KpmStore(t, serializable) })
	t.Run("commands", func(t *testing.T) { mustertest.CommandStore(t, serializable) })
	t.Run("registers", func(t *testing.T) { mustertest.Registers(t, serializable) })
	t.Run("sealing", func(t *testing.T) {
		mustertest.SealedStore(t, sealedOpener("default_transaction_isolation", "serializable"))
	})
}

func enrolment(t testing.TB, n int) mef.Enrolment {
	t.Helper()
	digest := sha256.Sum256([]byte(strconv.Itoa(n)))
	issuer, err1 := muster.ParseFQDN("mef.example.org")
	target, err2 := muster.ParseFQDN("maf.example.org")
	enrolee, err3 := muster.ParseEnroleeID("//sp.example.org/device" + strconv.Itoa(n))
	key := sha256.Sum256(digest[:])
	ke, err4 := muster.NewKe(key[:])
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	return mef.Enrolment{
		KeID: muster.NewKeID([muster.RelativeSize]byte(digest[8:]), issuer), EnroleeID: enrolee, Targets: []muster.FQDN{target},
		Session: digest, Certificate: digest, Ke: ke, Created: now, Expires: now.Add(24 * time.Hour),
	}
}

func fetch(ctx context.Context, store mef.Store, e mef.Enrolment) (mef.Enrolment, error) {
	return store.FetchEnrolment(ctx, mef.Fetch{KeID: e.KeID, MAF: e.Targets[0], Now: e.Created, Window: time.Hour, Max: 1 << 30})
}

func mustCreate(t testing.TB, store mef.Store, e mef.Enrolment) {
	t.Helper()
	if _, err := store.CreateEnrolment(t.Context(), e, 10); err != nil {
		t.Fatal(err)
	}
}

// edit changes a database behind the back of its stores.
func edit(t testing.TB, url, statement string) string {
	t.Helper()
	out, err := cluster(t).SQL("SET search_path = " + searchPath(url) + "; " + statement)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// searchPath returns the schema that create made.
func searchPath(url string) string {
	_, name, _ := strings.Cut(url, "search_path=")
	name, _, _ = strings.Cut(name, "&")
	return name
}
