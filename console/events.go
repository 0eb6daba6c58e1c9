package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"muster"
)

const (
	watchPulse = 15 * time.Second // after which a comment shows that the connection lives
	watchWrite = 10 * time.Second // that a watcher has to take one event
)

// events sends what happens as server-sent events, the first being the one after
// Last-Event-ID, until the client goes.
func (s *Server) events(who caller, w http.ResponseWriter, r *http.Request) error {
	var after uint64
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		var err error
		if after, err = strconv.ParseUint(last, 10, 64); err != nil {
			return muster.Refuse(muster.CodeRequestMalformed, "Last-Event-ID is not a number")
		}
	}
	select {
	case s.watchers <- struct{}{}:
		defer func() { <-s.watchers }()
	default:
		return muster.Refuse(muster.CodeBusy, "%d clients follow events", maxWatchers)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	stream := http.NewResponseController(w)
	if err := stream.SetReadDeadline(time.Time{}); err != nil { // the one for requests would end the stream
		return err
	}
	send := func(format string, args ...any) error {
		if err := stream.SetWriteDeadline(time.Now().Add(watchWrite)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, format, args...); err != nil {
			return err
		}
		return stream.Flush()
	}
	if err := send(": events of this function\n\n"); err != nil {
		return nil // the client is gone
	}
	// The answer has begun: what fails from here on ends it, and cannot be told.
	for r.Context().Err() == nil {
		// Whoever lost the right to watch is let go at the next pulse.
		if _, err := s.admit(r, "watch", lookingAt); err != nil {
			return nil
		}
		ctx, cancel := context.WithTimeout(r.Context(), watchPulse)
		failed := false
		err := s.config.Events.Watch(ctx, after, func(e Event) error {
			body, err := json.Marshal(e)
			if err == nil {
				err = send("id: %d\nevent: %s\ndata: %s\n\n", e.ID, e.Kind, body)
			}
			after, failed = e.ID, err != nil
			return err
		})
		cancel()
		if failed || err != nil && ctx.Err() == nil || send(": pulse\n\n") != nil {
			return nil
		}
	}
	return nil
}
