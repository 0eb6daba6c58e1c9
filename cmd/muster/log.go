package main

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

// maxLinesSecond is how many lines with one message and one code are written in
// one second. What strangers cause must not fill a disk; how often they do stands
// in the summary, and in the metrics.
const maxLinesSecond = 20

// newLogger returns a log of JSON lines, each with the attributes in args.
func newLogger(out io.Writer, args ...any) *slog.Logger {
	plain := slog.New(slog.NewJSONHandler(out, nil)).With(args...).Handler()
	return slog.New(&calmHandler{plain, &flood{plain: plain, kinds: map[lineKind]*spate{}}})
}

// A calmHandler writes at most maxLinesSecond lines a second of those that have a
// code, by message and code, and then one line that says how many were left out.
type calmHandler struct {
	slog.Handler
	flood *flood
}

// Handle implements slog.Handler.
func (h *calmHandler) Handle(ctx context.Context, r slog.Record) error {
	kind := lineKind{message: r.Message}
	coded := false
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "code" {
			kind.code, coded = a.Value.String(), true
		}
		return !coded
	})
	if coded && !h.flood.admits(kind, r.Time) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *calmHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &calmHandler{h.Handler.WithAttrs(attrs), h.flood}
}

// WithGroup implements slog.Handler.
func (h *calmHandler) WithGroup(name string) slog.Handler {
	return &calmHandler{h.Handler.WithGroup(name), h.flood}
}

// A lineKind is what lines are counted by. Messages and codes are few.
type lineKind struct{ message, code string }

// A flood counts lines.
type flood struct {
	plain slog.Handler // of the summaries

	mu    sync.Mutex
	kinds map[lineKind]*spate // guarded by mu
}

// A spate is the lines of one kind within a second of the first.
type spate struct {
	began          time.Time
	lines, omitted int
}

func (f *flood) admits(kind lineKind, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.kinds[kind]
	if s == nil || s.omitted == 0 && now.Sub(s.began) >= time.Second {
		s = &spate{began: now}
		f.kinds[kind] = s
	}
	if s.lines++; s.lines <= maxLinesSecond {
		return true
	}
	if s.omitted++; s.omitted == 1 {
		time.AfterFunc(time.Second-now.Sub(s.began), func() { f.summarise(kind) })
	}
	return false
}

// summarise ends a spate of which lines were left out.
func (f *flood) summarise(kind lineKind) {
	f.mu.Lock()
	omitted := f.kinds[kind].omitted
	delete(f.kinds, kind)
	f.mu.Unlock()
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "lines left out", 0)
	r.AddAttrs(slog.String("of", kind.message), slog.String("code", kind.code), slog.Int("lines", omitted))
	_ = f.plain.Handle(context.Background(), r)
}
