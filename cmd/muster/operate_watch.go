package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/console"
)

const (
	maxEventLine = 64 << 10         // octets of a line in a stream of events
	watchSilence = 45 * time.Second // of a server that sends a pulse every 15 seconds
	watchPause   = time.Second      // before the first try to connect again
)

func (o *operatorFlags) newWatchCommand() *cobra.Command {
	var since uint64
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Follow what happens, until interrupted",
		Long: `Follow what happens, one event a line, until interrupted. When the connection
breaks, it is opened again, and what happened in between is told as far as the
function remembers it; what is missing is told, too. Events are counted from the
start of the function; --since tells those after one of them.`,
		Args: cobra.NoArgs,
		RunE: o.at(func(ctx context.Context, d *desk, _ []string) error {
			w := &watcher{desk: d, last: since}
			return w.watch(ctx)
		}),
	}
	cmd.Flags().Uint64Var(&since, "since", 0, "tell the events after the one with this number, an `ID`")
	return cmd
}

// A watcher follows events over one connection after the other.
type watcher struct {
	*desk
	last uint64 // event that was told, or 0
}

// watch follows events until ctx ends, which is no error. It gives up on a server
// that cannot be reached at first, and on one that refuses.
func (w *watcher) watch(ctx context.Context) error {
	pause := watchPause
	for begun := false; ; {
		told, err := w.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if begun = begun || told; told {
			pause = watchPause
		}
		code := muster.CodeOf(err)
		if !begun || code != muster.CodeUnreachable && code != muster.CodeBusy {
			return err
		}
		fmt.Fprintf(w.notes, "the connection ended: %s\n", printable(err.Error()))
		if sleep(ctx, pause) != nil {
			return nil
		}
		pause = min(2*pause, longestPause)
	}
}

// follow tells the events of one connection until it ends, and whether it began.
func (w *watcher) follow(ctx context.Context) (begun bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(w.timeout, func() { cancel(errors.New("nothing is heard")) })
	defer silence.Stop()
	header := http.Header{"Accept": {"text/event-stream"}}
	if w.last > 0 {
		header.Set("Last-Event-ID", strconv.FormatUint(w.last, 10))
	}
	response, err := w.send(ctx, call{method: http.MethodGet, path: "/v1/events"}, header, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK || !isMedia(response, "text/event-stream") {
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxEventLine)) // a part will do
		return false, w.refusal(response, text)
	}
	lines := bufio.NewReaderSize(response.Body, maxEventLine)
	for {
		silence.Reset(watchSilence)
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return true, w.nonsense("it sends a line of more than %d octets", maxEventLine)
		case err != nil:
			return true, w.failure(err)
		}
		// The number and the kind stand in the data as well.
		data, ok := strings.CutPrefix(strings.TrimRight(string(line), "\r\n"), "data: ")
		if !ok {
			continue
		}
		if err := w.event(json.RawMessage(data)); err != nil {
			return true, err
		}
	}
}

// event tells one event, and before it what is missing.
func (w *watcher) event(raw json.RawMessage) error {
	var e console.Event
	if err := json.Unmarshal(raw, &e); err != nil {
		return w.nonsense("it sends an event that is none: %w", err)
	}
	switch {
	case w.last > 0 && e.ID <= w.last:
		fmt.Fprintln(w.notes, "the function has started anew, and counts from 1 again; what happened in between is not told")
	case w.last > 0 && e.ID > w.last+1:
		fmt.Fprintf(w.notes, "%d events are missing, from %d to %d\n", e.ID-w.last-1, w.last+1, e.ID-1)
	}
	w.last = e.ID
	if w.json {
		return w.line(raw)
	}
	parts := []string{e.Time.UTC().Format(time.RFC3339), fmt.Sprintf("%-9s", e.Kind)}
	for _, text := range []string{e.Who, e.What, e.Enrolee, e.KeID, e.Rule} {
		if text != "" {
			parts = append(parts, text)
		}
	}
	if e.Code != "" {
		parts = append(parts, "["+string(e.Code)+"]")
	}
	_, err := fmt.Fprintln(w.out, cut(printable(strings.Join(parts, "  ")), w.width))
	return err
}
