package postgres_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"muster/mef"
	"muster/mustertest"
	"muster/postgres"
	"muster/sqlite"
)

// engines opens a new database of each engine, all of which sync the disk.
func engines(b *testing.B) map[string]func(b *testing.B) mef.Store {
	alone := mustertest.NewCluster(b, "shared_buffers=1GB", "max_wal_size=4GB")
	primary := mustertest.NewCluster(b, "shared_buffers=1GB", "max_wal_size=4GB")
	standbyOf(b, primary)
	var schemas atomic.Int64
	on := func(server *mustertest.Cluster) func(b *testing.B) mef.Store {
		return func(b *testing.B) mef.Store {
			name := fmt.Sprintf("b%d", schemas.Add(1))
			if _, err := server.SQL("CREATE SCHEMA " + name); err != nil {
				b.Fatal(err)
			}
			url := server.URL("search_path", name)
			if err := postgres.Create(b.Context(), url, sealer(b)); err != nil {
				b.Fatal(err)
			}
			return openAt(b, url)
		}
	}
	return map[string]func(b *testing.B) mef.Store{
		"postgres": on(alone), "postgres with standby": on(primary),
		"sqlite": func(b *testing.B) mef.Store {
			path := filepath.Join(b.TempDir(), "muster.db")
			if err := sqlite.Create(b.Context(), path, sealer(b)); err != nil {
				b.Fatal(err)
			}
			store, err := sqlite.Open(b.Context(), path, sealer(b), sqlite.Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = store.Close() })
			return store
		},
	}
}

func BenchmarkCreateEnrolment(b *testing.B) {
	all := engines(b)
	for _, writers := range []int{1, 16, 256, 1024} {
		for _, engine := range []string{"sqlite", "postgres", "postgres with standby"} {
			b.Run(fmt.Sprintf("writers=%d/%s", writers, engine), func(b *testing.B) {
				store := all[engine](b)
				enrolments := make([]mef.Enrolment, b.N)
				for n := range enrolments {
					enrolments[n] = enrolment(b, n)
				}
				b.ResetTimer()
				spread(b, writers, b.N, func(n int) error {
					_, err := store.CreateEnrolment(b.Context(), enrolments[n], 10)
					return err
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
			})
		}
	}
}

func BenchmarkFetchEnrolment(b *testing.B) {
	all := engines(b)
	for _, writers := range []int{1, 16, 256} {
		for _, engine := range []string{"sqlite", "postgres", "postgres with standby"} {
			b.Run(fmt.Sprintf("writers=%d/%s", writers, engine), func(b *testing.B) {
				store := all[engine](b)
				const stored = 5000
				enrolments := make([]mef.Enrolment, stored)
				for n := range enrolments {
					enrolments[n] = enrolment(b, n)
				}
				spread(b, 256, stored, func(n int) error {
					_, err := store.CreateEnrolment(b.Context(), enrolments[n], 10)
					return err
				})
				b.ResetTimer()
				spread(b, writers, b.N, func(n int) error {
					_, err := fetch(b.Context(), store, enrolments[n%stored])
					return err
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
			})
		}
	}
}

// BenchmarkLookup reads and fetches single enrolments while the table grows.
func BenchmarkLookup(b *testing.B) {
	server := mustertest.NewCluster(b, "shared_buffers=1GB", "max_wal_size=8GB")
	if err := postgres.Create(b.Context(), server.URL(), sealer(b)); err != nil {
		b.Fatal(err)
	}
	store := openAt(b, server.URL())
	const stored = 2000
	enrolments := make([]mef.Enrolment, stored)
	for n := range enrolments {
		enrolments[n] = enrolment(b, n)
		mustCreate(b, store, enrolments[n])
	}
	rows := stored
	for _, size := range []int{10_000, 100_000, 1_000_000} {
		_, err := server.SQL(fmt.Sprintf(`INSERT INTO enrolment
			(ke_id, part, maf_id, enrolee_id, generation, session, certificate, data_key, sealed, state, created, expires)
			SELECT substr(sha256(n::text::bytea), 1, 16) || 'mef.example.org'::bytea, 0, 'maf.example.org', '//sp.example.org/filler' || n, 1,
				sha256((n + 1)::text::bytea), sha256((n + 2)::text::bytea), 1, substr(sha512(n::text::bytea), 1, 61), 1, %d, %d + n
			FROM generate_series(%d, %d) AS n`, time.Now().Unix(), time.Now().Unix()+1000, rows, size-1))
		if err != nil {
			b.Fatal(err)
		}
		rows = size
		_, err1 := server.SQL("VACUUM ANALYZE enrolment")
		_, err2 := server.SQL("CHECKPOINT")
		octets, err3 := server.SQL("SELECT pg_total_relation_size('enrolment') / (SELECT count(*) FROM enrolment)")
		if err := errors.Join(err1, err2, err3); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("rows=%d/read", size), func(b *testing.B) {
			for n := 0; b.Loop(); n++ {
				e := enrolments[n*7919%stored]
				if _, err := store.EnrolmentOf(b.Context(), e.EnroleeID, e.Session, e.Created); err != nil {
					b.Fatal(err)
				}
			}
			b.Logf("%s octets a row", octets)
		})
		b.Run(fmt.Sprintf("rows=%d/fetch", size), func(b *testing.B) {
			for n := 0; b.Loop(); n++ {
				if _, err := fetch(b.Context(), store, enrolments[n*7919%stored]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
