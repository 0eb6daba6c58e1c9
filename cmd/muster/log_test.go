package main

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"muster"
)

// A flood of refusals becomes a bounded number of lines and their number, and
// other codes and other lines are written as ever.
func TestLogOfAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuilder
		log := newLogger(&out, "function", labMEF)
		stranger := log.With("remote", "192.0.2.1:1")
		const flood = 500
		for range flood {
			logRefusal(stranger, "handshake refused", muster.Refuse(muster.CodeNameUnknown, "who"))
		}
		logRefusal(stranger, "handshake refused", muster.Refuse(muster.CodeExpired, "old"))
		logRefusal(stranger, "request refused", errors.New("disk"))
		for range flood {
			log.Info("enrolled")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for text, want := range map[string]int{
			`"code":"name-unknown","error"`: maxLinesSecond, `"code":"expired"`: 1, `"error":"disk"`: 1, `"enrolled"`: flood,
			`"lines left out","function":"` + labMEF + `","of":"handshake refused","code":"name-unknown","lines":480`: 1,
		} {
			if got := strings.Count(out.String(), text); got != want {
				t.Errorf("%d lines have %s, want %d", got, text, want)
			}
		}
		for range 3 { // the flood is over: nothing is left out
			time.Sleep(400 * time.Millisecond)
			logRefusal(stranger, "handshake refused", muster.Refuse(muster.CodeNameUnknown, "who"))
		}
		time.Sleep(2 * time.Second)
		if got := strings.Count(out.String(), `"code":"name-unknown","error"`); got != maxLinesSecond+3 {
			t.Errorf("%d lines after the flood", got-maxLinesSecond)
		}
		if got := strings.Count(out.String(), "lines left out"); got != 1 {
			t.Errorf("%d summaries", got)
		}
	})
}

type lockedBuilder struct {
	mu  sync.Mutex
	out strings.Builder
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

func (b *lockedBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.String()
}

func BenchmarkLogOfAFlood(b *testing.B) {
	log := newLogger(io.Discard)
	for b.Loop() {
		log.LogAttrs(b.Context(), slog.LevelInfo, "handshake refused", slog.String("code", "name-unknown"))
	}
}
