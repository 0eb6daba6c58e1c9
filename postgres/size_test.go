//go:build linux

package postgres_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"muster"
	"muster/archive"
	"muster/maf"
	"muster/mustertest"
	"muster/postgres"
	"muster/seal"
)

// sizeVariable is up to how many rows BenchmarkSize goes; without it, it goes to 10,000.
const sizeVariable = "MUSTER_ROWS"

// BenchmarkSize looks credentials up in tables of 10^4 rows and more, among all
// rows. They are copied in past the Store, but are what the Store would have
// written. It counts the processor time of this process and of the server's
// backends, and the blocks that a lookup visits, which no load on the machine changes.
func BenchmarkSize(b *testing.B) {
	server := mustertest.NewCluster(b, "shared_buffers=1GB", "max_wal_size=8GB", "fsync=off", "autovacuum=off", "stats_fetch_consistency=none")
	if err := postgres.Create(b.Context(), server.URL(), sealer(b)); err != nil {
		b.Fatal(err)
	}
	for have, rows := 0, 10_000; rows <= mostRows(b); have, rows = rows, rows*10 {
		fillCredentials(b, server, have, rows)
		_, err1 := server.SQL("VACUUM ANALYZE credential")
		size, err2 := server.SQL("SELECT pg_total_relation_size('credential')::float / count(*) FROM credential")
		octets, err3 := strconv.ParseFloat(size, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			b.Fatal(err)
		}
		store := openAt(b, server.URL())
		for what, lookup := range map[string]func(c maf.Credential) error{
			"by-KeID": func(c maf.Credential) error {
				_, err := store.CredentialByKeID(b.Context(), c.KeID, c.Created)
				return err
			},
			"by-KmID": func(c maf.Credential) error {
				_, err := store.CredentialByKmID(b.Context(), c.KmID, c.Created)
				return err
			},
		} {
			b.Run(fmt.Sprintf("rows=%d/%s", rows, what), func(b *testing.B) {
				look := func() {
					if err := lookup(sizedCredential(b, rand.IntN(rows))); err != nil {
						b.Fatal(err)
					}
				}
				for range min(rows/10, 20_000) { // fills caches
					look()
				}
				own, backends, blocks := ownTime(b), backendTime(b, server), visited(b, server)
				for b.Loop() {
					look()
				}
				n := float64(b.N)
				b.ReportMetric(float64(ownTime(b)-own)/n, "client-ns/op")
				b.ReportMetric(float64(backendTime(b, server)-backends)/n, "server-ns/op")
				b.ReportMetric(float64(visited(b, server)-blocks)/n, "blocks/op")
				b.ReportMetric(octets, "octets/row")
			})
		}
		if err := store.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// sizedCredential has identifiers that are as random as real ones.
func sizedCredential(t testing.TB, n int) maf.Credential {
	e := enrolment(t, 0)
	digest := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
	km, err1 := muster.NewKm(digest[:])
	enrolee, err2 := muster.ParseEnroleeID(fmt.Sprintf("//sp.example.org/%x", digest[16:24]))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	created := time.Unix(1_800_000_000, 0).UTC()
	expires := created.Add(365*24*time.Hour + time.Duration(n%1_000_000)*time.Second)
	return maf.Credential{
		KmID: km.KmID(e.Targets[0]), KeID: muster.NewKeID([muster.RelativeSize]byte(digest[:]), e.KeID.MEF()), EnroleeID: enrolee,
		MAF: e.Targets[0], Km: km, Created: created, Expires: expires, KeIDUntil: expires,
	}
}

// mostRows is up to how many rows a benchmark goes.
func mostRows(b *testing.B) int {
	text, given := os.LookupEnv(sizeVariable)
	if !given {
		return 10_000
	}
	most, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return most
}

func fillCredentials(b *testing.B, server *mustertest.Cluster, have, rows int) {
	columns := []string{"ke_id", "km_id", "enrolee_id", "generation", "maf_id", "data_key", "sealed", "state", "created", "expires", "ke_id_until"}
	fill(b, server.URL(), "credential", columns, rows-have, func(i int, sealer *seal.Sealer) ([]any, error) {
		return credentialRow(sizedCredential(b, have+i), sealer)
	})
}

// fill copies rows to a table, sealed under data key 1.
func fill(b *testing.B, url, table string, columns []string, rows int, row func(i int, sealer *seal.Sealer) ([]any, error)) {
	b.Helper()
	conn, err := pgx.Connect(b.Context(), url)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(b.Context())
	sealer := sealer(b)
	var wrapped []byte
	err = conn.QueryRow(b.Context(), "SELECT wrapped FROM data_key WHERE id = 1").Scan(&wrapped)
	if err := errors.Join(err, sealer.UseDataKey(1, wrapped)); err != nil {
		b.Fatal(err)
	}
	_, err = conn.CopyFrom(b.Context(), pgx.Identifier{table}, columns, pgx.CopyFromSlice(rows, func(i int) ([]any, error) { return row(i, sealer) }))
	if err != nil {
		b.Fatal(err)
	}
}

func credentialRow(c maf.Credential, sealer *seal.Sealer) ([]any, error) {
	sealed, err := sealer.Seal(1, c.Km.Reveal(), archive.BindKm(c.MAF, c.KmID, c.KeID, c.EnroleeID, c.Expires)...)
	return []any{archive.KeIDOctets(c.KeID), c.KmID.String(), c.EnroleeID.String(), 1, c.MAF.String(), 1, sealed, 1,
		c.Created.Unix(), c.Expires.Unix(), c.KeIDUntil.Unix()}, err
}

func ownTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// backendTime is what the backends of the Store have computed, in steps of 10 ms.
func backendTime(b *testing.B, server *mustertest.Cluster) (total time.Duration) {
	pids, err := server.SQL("SELECT pid FROM pg_stat_activity WHERE application_name = 'muster'")
	if err != nil {
		b.Fatal(err)
	}
	for _, pid := range strings.Fields(pids) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			b.Fatal(err)
		}
		_, after, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(after)
		user, err1 := strconv.Atoi(fields[11])
		system, err2 := strconv.Atoi(fields[12])
		if err := errors.Join(err1, err2); err != nil {
			b.Fatal(err)
		}
		total += time.Duration(user+system) * 10 * time.Millisecond
	}
	return total
}

// visited is how many blocks the server has visited, in its cache or not.
func visited(b *testing.B, server *mustertest.Cluster) int {
	time.Sleep(1500 * time.Millisecond) // until the backends report
	text, err1 := server.SQL("SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = current_database()")
	n, err2 := strconv.Atoi(text)
	if err := errors.Join(err1, err2); err != nil {
		b.Fatal(err)
	}
	return n
}
