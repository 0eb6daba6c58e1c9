//go:build linux

package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster/archive"
	"muster/mef"
	"muster/mustertest"
	"muster/postgres"
	"muster/seal"
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

// BenchmarkLookup reads and fetches single enrolments, chosen among all rows, while
// the table grows to as many as MUSTER_ROWS says.
func BenchmarkLookup(b *testing.B) {
	server := mustertest.NewCluster(b, "shared_buffers=1GB", "max_wal_size=8GB")
	if err := postgres.Create(b.Context(), server.URL(), sealer(b)); err != nil {
		b.Fatal(err)
	}
	store := openAt(b, server.URL())
	for have, rows := 0, 10_000; rows <= mostRows(b); have, rows = rows, rows*10 {
		fillEnrolments(b, server.URL(), have, rows)
		_, err1 := server.SQL("VACUUM ANALYZE enrolment")
		_, err2 := server.SQL("CHECKPOINT")
		octets, err3 := server.SQL("SELECT pg_total_relation_size('enrolment') / (SELECT count(*) FROM enrolment)")
		if err := errors.Join(err1, err2, err3); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("rows=%d/read", rows), func(b *testing.B) {
			for b.Loop() {
				e := enrolment(b, rand.IntN(rows))
				if _, err := store.EnrolmentOf(b.Context(), e.EnroleeID, e.Session, e.Created); err != nil {
					b.Fatal(err)
				}
			}
			b.Logf("%s octets a row", octets)
		})
		b.Run(fmt.Sprintf("rows=%d/fetch", rows), func(b *testing.B) {
			for b.Loop() {
				if _, err := fetch(b.Context(), store, enrolment(b, rand.IntN(rows))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// fillEnrolments copies enrolments in past the Store, as the Store would have written them.
func fillEnrolments(b *testing.B, url string, have, rows int) {
	b.Helper()
	columns := []string{"ke_id", "part", "maf_id", "enrolee_id", "generation", "session", "certificate", "data_key", "sealed", "state", "created", "expires"}
	fill(b, url, "enrolment", columns, rows-have, func(i int, sealer *seal.Sealer) ([]any, error) {
		e := enrolment(b, have+i)
		sealed, err := sealer.Seal(1, e.Ke.Reveal(), archive.BindKe(e.KeID, e.Targets[0], e.EnroleeID, e.Expires)...)
		return []any{archive.KeIDOctets(e.KeID), 0, e.Targets[0].String(), e.EnroleeID.String(), 1, e.Session[:], e.Certificate[:], 1, sealed, 1,
			e.Created.Unix(), e.Expires.Unix()}, err
	})
}

// BenchmarkResealing creates enrolments alone, and while all that is stored is sealed
// anew again and again, in turn, and reports the ratio of the speeds.
func BenchmarkResealing(b *testing.B) {
	const stored, each, turns, writers = 20_000, 2000, 4, 64
	server := mustertest.NewCluster(b, "shared_buffers=1GB", "max_wal_size=4GB")
	if err := postgres.Create(b.Context(), server.URL(), sealer(b)); err != nil {
		b.Fatal(err)
	}
	fillEnrolments(b, server.URL(), 0, stored)
	store := openAt(b, server.URL())
	next, resealed := stored, 0
	var took [2]time.Duration // alone, and not
	for range b.N * turns {
		for turn := range took {
			ctx, stop := context.WithCancel(b.Context())
			var resealing sync.WaitGroup
			if turn == 1 {
				resealing.Go(func() {
					for ctx.Err() == nil {
						n, err := store.Reseal(ctx, sweepLimit)
						if resealed += n; err == nil && n < sweepLimit {
							err = store.RotateDataKey(ctx)
						}
						if err != nil && ctx.Err() == nil {
							b.Error(err)
							return
						}
					}
				})
			}
			begun := time.Now()
			spread(b, writers, each, func(n int) error {
				_, err := store.CreateEnrolment(b.Context(), enrolment(b, next+n), 10)
				return err
			})
			took[turn] += time.Since(begun)
			next += each
			stop()
			resealing.Wait()
		}
	}
	b.ReportMetric(took[0].Seconds()/took[1].Seconds(), "speed-ratio")
	b.ReportMetric(float64(each*turns*b.N)/took[0].Seconds(), "alone-op/s")
	b.ReportMetric(float64(resealed)/took[1].Seconds(), "resealed/s")
}

// sweepLimit is how many keys one call seals anew.
const sweepLimit = 1000
