package sqlite_test

import (
	"fmt"
	"testing"

	"muster/mef"
)

func BenchmarkCreateEnrolment(b *testing.B) {
	for _, writers := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			store := openAt(b, create(b))
			enrolments := make([]mef.Enrolment, b.N)
			for n := range enrolments {
				enrolments[n] = enrolment(b, n)
			}
			b.ResetTimer()
			spread(b, writers, func(n int) error {
				_, err := store.CreateEnrolment(b.Context(), enrolments[n], 10)
				return err
			})
		})
	}
}

func BenchmarkFetchEnrolment(b *testing.B) {
	for _, writers := range []int{1, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			store := openAt(b, create(b))
			const stored = 5000
			enrolments := make([]mef.Enrolment, stored)
			for n := range enrolments {
				enrolments[n] = enrolment(b, n)
			}
			spreadN(b, 256, stored, func(n int) error {
				_, err := store.CreateEnrolment(b.Context(), enrolments[n], 10)
				return err
			})
			b.ResetTimer()
			spread(b, writers, func(n int) error {
				_, err := fetch(b.Context(), store, enrolments[n%stored])
				return err
			})
		})
	}
}

func spread(b *testing.B, writers int, run func(n int) error) {
	b.Helper()
	spreadN(b, writers, b.N, run)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
}

// spreadN runs a function for each number below n in so many goroutines.
func spreadN(b *testing.B, goroutines, n int, run func(n int) error) {
	b.Helper()
	results := make(chan error, goroutines)
	for g := range goroutines {
		go func() {
			var err error
			for i := g; i < n && err == nil; i += goroutines {
				err = run(i)
			}
			results <- err
		}()
	}
	for range goroutines {
		if err := <-results; err != nil {
			b.Fatal(err)
		}
	}
}
