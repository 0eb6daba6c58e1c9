package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster/mef"
	"muster/postgres"
	"muster/tef"
)

func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	const queue = 30
	store := openWith(t, create(t), postgres.Options{Queue: queue})
	release := store.Occupy()
	var all sync.WaitGroup
	var busy atomic.Int32
	for n := range 4 * queue {
		all.Go(func() {
			switch _, err := store.CreateEnrolment(t.Context(), enrolment(t, n), 1); {
			case errors.Is(err, mef.ErrBusy):
				busy.Add(1)
			case err != nil:
				t.Errorf("enrolment %d: %v", n, err)
			}
		})
	}
	for int(busy.Load()) < 3*queue {
		time.Sleep(time.Millisecond)
	}
	release()
	all.Wait()
	if n := busy.Load(); n != 3*queue {
		t.Errorf("%d of %d writes were refused, want %d", n, 4*queue, 3*queue)
	}
}

// A caller that goes away does not take its write with it.
func TestCancelledWriteIsDone(t *testing.T) {
	t.Parallel()
	store := openAt(t, create(t))
	release := store.Occupy()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := store.CreateEnrolment(ctx, enrolment(t, 1), 1)
		done <- err
	}()
	for store.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller got %v, want its own cancellation", err)
	}
	release()
	if err := store.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	_, err := store.CreateEnrolment(ctx, enrolment(t, 1), 1)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was cancelled before: %v", err)
	}
}

// Closing waits for what waits.
func TestCloseDrains(t *testing.T) {
	t.Parallel()
	url := create(t)
	store := openAt(t, url)
	release := store.Occupy()
	const waiting = 40
	var all sync.WaitGroup
	for n := range waiting {
		all.Go(func() {
			if _, err := store.CreateEnrolment(t.Context(), enrolment(t, n), 1); err != nil {
				t.Errorf("enrolment %d: %v", n, err)
			}
		})
	}
	for store.Waiting() < waiting {
		time.Sleep(time.Millisecond)
	}
	closed := make(chan error)
	go func() { closed <- store.Close() }()
	release()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	all.Wait()
	if out := edit(t, url, "SELECT count(*) FROM enrolment"); out != strconv.Itoa(waiting) {
		t.Errorf("%s enrolments, want %d", out, waiting)
	}
}

// One record that the database does not take fails alone, among many that share
// its transaction.
func TestOneBadWriteFailsAlone(t *testing.T) {
	t.Parallel()
	store := openAt(t, create(t))
	release := store.Occupy()
	const writes = 120
	var all sync.WaitGroup
	for n := range writes {
		e := enrolment(t, n)
		r := tef.ClientRegistration{
			ID: strconv.Itoa(n), Function: e.Targets[0], ClientID: e.EnroleeID, AdminFQDN: e.Targets[0],
			Created: e.Created, Modified: e.Created, Expires: e.Expires,
		}
		bad := n%40 == 7
		if bad {
			r.ID += "\x00"
		}
		all.Go(func() {
			if _, err := store.PutRegistration(t.Context(), r); (err != nil) != bad || errors.Is(err, tef.ErrConflict) {
				t.Errorf("registration %q: %v", r.ID, err)
			}
		})
	}
	for store.Waiting() < writes {
		time.Sleep(time.Millisecond)
	}
	release()
	all.Wait()
}

func TestIncompleteRecordsAreRefused(t *testing.T) {
	t.Parallel()
	store := openAt(t, create(t))
	for what, change := range map[string]func(*mef.Enrolment){
		"no KeID":        func(e *mef.Enrolment) { e.KeID = mef.Enrolment{}.KeID },
		"no Enrolee":     func(e *mef.Enrolment) { e.EnroleeID = mef.Enrolment{}.EnroleeID },
		"no Ke":          func(e *mef.Enrolment) { e.Ke = mef.Enrolment{}.Ke },
		"no target":      func(e *mef.Enrolment) { e.Targets = nil },
		"a target twice": func(e *mef.Enrolment) { e.Targets = append(e.Targets, e.Targets...) },
	} {
		e := enrolment(t, 1)
		change(&e)
		if _, err := store.CreateEnrolment(t.Context(), e, 1); err == nil {
			t.Errorf("%s: stored", what)
		}
	}
}

// Every statement finds its rows by an index, whatever the server knows of the
// size of the tables.
func TestStatementsUseIndexes(t *testing.T) {
	t.Parallel()
	url := create(t)
	var script strings.Builder
	for name, value := range postgres.SessionSettings() {
		fmt.Fprintf(&script, "SET %s = '%s'; ", name, value)
	}
	all := postgres.Statements()
	for i, statement := range all {
		parameters := 0
		for _, match := range regexp.MustCompile(`\$(\d+)`).FindAllStringSubmatch(statement, -1) {
			n, _ := strconv.Atoi(match[1])
			parameters = max(parameters, n)
		}
		nulls := strings.TrimSuffix(strings.Repeat("NULL, ", parameters), ", ")
		fmt.Fprintf(&script, "PREPARE p%d AS %s; EXPLAIN (FORMAT JSON) EXECUTE p%d (%s); ", i, statement, i, nulls)
	}
	check := func(size string) {
		plans := json.NewDecoder(strings.NewReader(edit(t, url, script.String())))
		for _, statement := range all {
			var of []struct{ Plan plan }
			if err := plans.Decode(&of); err != nil || len(of) != 1 {
				t.Fatalf("%s: %v", statement, err)
			}
			if node := of[0].Plan.scan(); node != "" {
				t.Errorf("with %s tables a %s: %s", size, node, statement)
			}
			if root := of[0].Plan; root.NodeType == "Limit" && strings.HasSuffix(root.Plans[0].NodeType, "Sort") {
				t.Errorf("with %s tables more than a page is sorted: %s", size, statement)
			}
		}
	}
	check("empty")
	edit(t, url, "ANALYZE enrolment, credential, registration, key_registration, kpm, command")
	check("known to be empty")
	store := openAt(t, url)
	spread(t, 256, 3000, func(n int) error {
		_, err := store.CreateEnrolment(t.Context(), enrolment(t, n), 1)
		return err
	})
	check("unknown")
	edit(t, url, "ANALYZE enrolment")
	check("filled")
}

type plan struct {
	NodeType  string `json:"Node Type"`
	Relation  string `json:"Relation Name"`
	Condition string `json:"Index Cond"`
	Plans     []plan `json:"Plans"`
}

// scan names a node that reads a table from one end to the other.
func (p plan) scan() string {
	switch p.NodeType {
	case "Seq Scan":
		return p.NodeType + " of " + p.Relation
	case "Index Scan", "Index Only Scan", "Bitmap Index Scan":
		if p.Condition == "" || strings.HasPrefix(p.Condition, "(state = ANY ('{1,2}'::integer[]))") {
			return p.NodeType + " of all that is in " + p.Relation
		}
	}
	for _, child := range p.Plans {
		if node := child.scan(); node != "" {
			return node
		}
	}
	return ""
}
