package archive_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/archive"
	"muster/seal"
)

// many returns enrolments, each with a sealed key, and their data key.
func many(t testing.TB, s *seal.Sealer, n int) iter.Seq2[archive.Record, error] {
	t.Helper()
	wrapped, err := s.NewDataKey(1)
	if err == nil {
		err = s.UseDataKey(1, wrapped)
	}
	if err != nil {
		t.Fatal(err)
	}
	issuer, target := fqdn(t, "mef.example.org"), fqdn(t, "maf.example.org")
	return func(yield func(archive.Record, error) bool) {
		if !yield(&archive.DataKey{ID: 1, Wrapped: wrapped, Created: now().Unix(), Seals: int64(n)}, nil) {
			return
		}
		number := uint32(1)
		for i := range n {
			var relative [muster.RelativeSize]byte
			binary.BigEndian.PutUint64(relative[:], uint64(i))
			id, owner := muster.NewKeID(relative, issuer), enrolee(t, i)
			expires := now().Add(time.Hour)
			sealed, err := s.Seal(number, octets(i), archive.BindKe(id, target, owner, expires)...)
			record := &archive.Enrolment{
				KeID: archive.KeIDOctets(id), MAF: target.String(), Enrolee: owner.String(), Generation: 1, Session: octets(i), Certificate: octets(i),
				Sealed: archive.Sealed{DataKey: &number, Octets: sealed}, State: 1, Created: now().Unix(), Expires: expires.Unix(),
			}
			if !yield(record, err) {
				return
			}
		}
	}
}

// BenchmarkArchive imports and exports as many enrolments as MUSTER_ROWS says. One
// iteration is enough.
func BenchmarkArchive(b *testing.B) {
	rows := 10_000
	if text, ok := os.LookupEnv("MUSTER_ROWS"); ok {
		var err error
		if rows, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	for _, e := range []engine{onSQLite(), onPostgres()} {
		b.Run(fmt.Sprintf("%s/%d", e.name, rows), func(b *testing.B) {
			for range b.N {
				place, s := e.place(b), sealer(b, 0)
				begun := time.Now()
				if _, _, err := e.fill(b.Context(), place, many(b, s, rows), s, true); err != nil {
					b.Fatal(err)
				}
				imported := time.Now()
				err := archive.Write(io.Discard, header(e.name), archive.NewReport().Watch(e.records(b.Context(), place), sealer(b, 0)))
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(imported.Sub(begun).Seconds(), "s-import")
				b.ReportMetric(time.Since(imported).Seconds(), "s-export")
			}
			// The most memory that this process had so far, where the system tells.
			if status, err := os.ReadFile("/proc/self/status"); err == nil {
				var kib float64
				_, most, _ := strings.Cut(string(status), "VmHWM:")
				if _, err := fmt.Sscan(most, &kib); err == nil {
					b.ReportMetric(kib/1024, "MiB-most")
				}
			}
		})
	}
}
