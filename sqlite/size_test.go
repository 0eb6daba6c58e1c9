//go:build unix

package sqlite

import (
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"muster"
	"muster/archive"
	"muster/maf"
	"muster/mef"
	"muster/seal"
)

// sizeVariable is up to how many rows BenchmarkSize goes; without it, it goes to
// 10,000. Ten million take some 5 GiB for each table and a quarter of an hour.
const sizeVariable = "MUSTER_ROWS"

// BenchmarkSize measures lookups and writes in tables of 10^4 rows and more, and
// the octets of a row. The rows are brought in past the Store, in one transaction
// without syncs, but are what the Store would have written; everything that is
// measured goes through the Store, with full caches. Lookups choose among all rows.
func BenchmarkSize(b *testing.B) {
	most := 10_000
	if text := os.Getenv(sizeVariable); text != "" {
		var err error
		if most, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	for _, table := range []sizedTable{credentialTable(), enrolmentTable()} {
		b.Run(table.name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "muster.db")
			if err := Create(b.Context(), path, newSealer(b)); err != nil {
				b.Fatal(err)
			}
			for have, rows := 0, 10_000; rows <= most; have, rows = rows, rows*10 {
				table.fill(b, path, have, rows)
				info, err := os.Stat(path)
				if err != nil {
					b.Fatal(err)
				}
				b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
					table.measure(b, path, rows, float64(info.Size())/float64(rows))
				})
			}
		})
	}
}

// reads is how often this process has read from files, where the system tells:
// each is a page that SQLite's own cache has not. No load on the machine changes it.
func reads() (n float64, ok bool) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, false
	}
	_, count, _ := strings.Cut(string(text), "syscr: ")
	count, _, _ = strings.Cut(count, "\n")
	n, err = strconv.ParseFloat(count, 64)
	return n, err == nil
}

// cpuTime is what this process has computed, which a busy machine does not change
// as it changes the time that passes.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// A sizedTable is filled and measured.
type sizedTable struct {
	name, insert string
	row          func(testing.TB, *seal.Sealer, int) []any
	operations   []sizedOperation
}

// A sizedOperation works on row n of so many.
type sizedOperation struct {
	name string
	run  func(b *testing.B, s *Store, n, rows int) error
}

func (table sizedTable) fill(b *testing.B, path string, have, rows int) {
	b.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=journal_mode(OFF)&_pragma=synchronous(OFF)&_pragma=cache_size(-8388608)")
	if err != nil {
		b.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	sealer := newSealer(b)
	var wrapped []byte
	err = db.QueryRow("SELECT wrapped FROM data_key WHERE id = 1").Scan(&wrapped)
	if err := errors.Join(err, sealer.UseDataKey(1, wrapped)); err != nil {
		b.Fatal(err)
	}
	tx, err := db.Begin()
	if err != nil {
		b.Fatal(err)
	}
	insert, err := tx.Prepare(table.insert)
	if err != nil {
		b.Fatal(err)
	}
	for n := have; n < rows; n++ {
		if _, err := insert.Exec(table.row(b, sealer, n)...); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(insert.Close(), tx.Commit(), db.Close()); err != nil {
		b.Fatal(err)
	}
}

func (table sizedTable) measure(b *testing.B, path string, rows int, octets float64) {
	s, err := Open(b.Context(), path, newSealer(b), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for _, operation := range table.operations {
		for _, callers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/callers=%d", operation.name, callers), func(b *testing.B) {
				b.SetParallelism(callers)
				run := func() bool {
					if err := operation.run(b, s, rand.IntN(rows), rows); err != nil {
						b.Error(err)
						return false
					}
					return true
				}
				for range min(rows/10, 50_000) { // fills caches
					if !run() {
						return
					}
				}
				b.ResetTimer()
				pages, told := reads()
				before := cpuTime(b)
				if callers == 1 {
					for b.Loop() && run() {
					}
				} else {
					b.RunParallel(func(p *testing.PB) {
						for p.Next() && run() {
						}
					})
				}
				b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
				if after, ok := reads(); ok && told {
					b.ReportMetric((after-pages)/float64(b.N), "reads/op")
				}
				b.ReportMetric(octets, "octets/row")
			})
		}
	}
}

// sized is an enrolment whose identifiers are as random as real ones.
func sized(t testing.TB, n int) mef.Enrolment {
	e := sample(t, n)
	digest := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
	e.KeID = muster.NewKeID([muster.RelativeSize]byte(digest[:]), e.KeID.MEF())
	enrolee, err := muster.ParseEnroleeID(fmt.Sprintf("//sp.example.org/%x", digest[16:24]))
	if err != nil {
		t.Fatal(err)
	}
	e.EnroleeID, e.Session, e.Certificate = enrolee, digest, digest
	e.Created = time.Unix(1_800_000_000, 0)
	e.Expires = e.Created.Add(365*24*time.Hour + time.Duration(n%1_000_000)*time.Second)
	return e
}

var sizedWritten atomic.Int64 // numbers the enrolments that are created under measurement

func enrolmentTable() sizedTable {
	return sizedTable{
		name: "enrolment",
		insert: `INSERT INTO enrolment (ke_id, maf_id, enrolee_id, generation, session, certificate, data_key, sealed, state, created, expires)
			VALUES (?, ?, ?, 1, ?, ?, 1, ?, 1, ?, ?)`,
		row: func(t testing.TB, sealer *seal.Sealer, n int) []any {
			e := sized(t, n)
			e.Expires = wholeSecond(e.Expires)
			sealed, err := sealer.Seal(1, e.Ke.Reveal(), bindEnrolment(e, e.Targets[0])...)
			if err != nil {
				t.Fatal(err)
			}
			return []any{archive.KeIDOctets(e.KeID), e.Targets[0].String(), e.EnroleeID.String(), e.Session[:], e.Certificate[:],
				sealed, e.Created.Unix(), e.Expires.Unix()}
		},
		operations: []sizedOperation{
			{"lookup", func(b *testing.B, s *Store, n, _ int) error {
				e := sized(b, n)
				_, err := s.EnrolmentOf(b.Context(), e.EnroleeID, e.Session, e.Created)
				return err
			}},
			{"fetch", func(b *testing.B, s *Store, n, _ int) error {
				e := sized(b, n)
				f := mef.Fetch{KeID: e.KeID, MAF: e.Targets[0], Now: e.Created, Window: time.Hour, Max: 1 << 30}
				_, err := s.FetchEnrolment(b.Context(), f)
				return err
			}},
			{"create", func(b *testing.B, s *Store, _, rows int) error {
				_, err := s.CreateEnrolment(b.Context(), sized(b, 1<<40+rows<<8+int(sizedWritten.Add(1))), 1)
				return err
			}},
		},
	}
}

func credentialTable() sizedTable {
	id := func(t testing.TB, n int) muster.KmID {
		digest := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(n)))
		km, err := muster.NewKm(digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return km.KmID(sample(t, 0).Targets[0])
	}
	return sizedTable{
		name: "credential",
		insert: `INSERT INTO credential (ke_id, km_id, enrolee_id, generation, maf_id, data_key, sealed, state, created, expires, ke_id_until)
			VALUES (?, ?, ?, 1, ?, 1, ?, 1, ?, ?, ?)`,
		row: func(t testing.TB, sealer *seal.Sealer, n int) []any {
			e := sized(t, n)
			c := maf.Credential{KmID: id(t, n), KeID: e.KeID, EnroleeID: e.EnroleeID, MAF: e.Targets[0], Expires: wholeSecond(e.Expires)}
			sealed, err := sealer.Seal(1, e.Ke.Reveal(), bindCredential(c)...)
			if err != nil {
				t.Fatal(err)
			}
			return []any{archive.KeIDOctets(c.KeID), c.KmID.String(), c.EnroleeID.String(), c.MAF.String(), sealed,
				e.Created.Unix(), c.Expires.Unix(), c.Expires.Unix()}
		},
		operations: []sizedOperation{
			{"by-KeID", func(b *testing.B, s *Store, n, _ int) error {
				e := sized(b, n)
				_, err := s.CredentialByKeID(b.Context(), e.KeID, e.Created)
				return err
			}},
			{"by-KmID", func(b *testing.B, s *Store, n, _ int) error {
				_, err := s.CredentialByKmID(b.Context(), id(b, n), time.Unix(1_800_000_000, 0))
				return err
			}},
		},
	}
}
