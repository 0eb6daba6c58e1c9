package postgres_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"muster"
	"muster/mef"
	"muster/mustertest"
	"muster/postgres"
	"muster/tef"
)

// victimVariable, if set, makes TestCrash one of the processes that another
// TestCrash kills: it holds the number of its first enrolment and the URL.
const victimVariable = "MUSTER_POSTGRES_VICTIM"

// roundsVariable is how often TestCrash goes through its disasters; 1 by default.
const roundsVariable = "MUSTER_POSTGRES_ROUNDS"

const (
	victimWriters = 8
	contested     = 1_000_000_000 // from here on, all processes want the same KeIDs
	common        = 2_000_000_000 // from here on, all processes create the same enrolments
)

// contend is the claim of an Enrolee, which has no other enrolment, to a KeID that
// each process claims for an Enrolee of its own.
func contend(t testing.TB, n, process int) mef.Enrolment {
	e := enrolment(t, contested+n)
	e.EnroleeID = enrolment(t, contested+process).EnroleeID
	return e
}

// victim enrols as fast as it can, while data keys come and go, repeats what is
// refused, and prints a line for all that was acknowledged, until it is killed. One write call makes one line:
// what the parent reads was acknowledged.
func victim(t *testing.T, task string) error {
	number, url, _ := strings.Cut(task, " ")
	first, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	store := openAt(t, url)
	failed := make(chan error)
	enrol := func(what string, n int, e mef.Enrolment, most int) error {
		for {
			stored, err := store.CreateEnrolment(t.Context(), e, most)
			line := fmt.Sprintf("%s %d %d\n", what, n, stored.Generation)
			switch {
			case muster.CodeOf(err).Temporary() || errors.Is(err, mef.ErrBusy):
				line = "refused 0 0\n"
			case errors.Is(err, mef.ErrConflict) && what == "owner":
				return nil
			case err != nil:
				return err
			}
			if _, bad := os.Stdout.WriteString(line); bad != nil || err == nil {
				return bad
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	go func() {
		for {
			if err := reseal(t.Context(), store); err != nil && !muster.CodeOf(err).Temporary() && !errors.Is(err, tef.ErrBusy) {
				failed <- err
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	for w := range victimWriters {
		go func() {
			for n := w; ; n += victimWriters {
				err := enrol("stored", first+n, enrolment(t, first+n), 10)
				if err == nil && n%5 == 0 {
					err = errors.Join(enrol("owner", n, contend(t, n, first+n), 1<<30), enrol("stored", common+n, enrolment(t, common+n), 10))
				}
				if err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

// A herd is the processes that share a database, and what they were told.
type herd struct {
	t   *testing.T
	url string

	mu      sync.Mutex
	stored  map[int]bool
	owner   map[int][]int // processes by contested KeID
	refused int
	fault   error
}

// An animal is one process.
type animal struct {
	command *exec.Cmd
	first   int
	told    chan struct{} // has an element for each acknowledgement
	done    chan struct{}
}

func (h *herd) start(first int) *animal {
	h.t.Helper()
	a := &animal{exec.Command(os.Args[0], "-test.run=^TestCrash$"), first, make(chan struct{}, 1<<20), make(chan struct{})}
	a.command.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", victimVariable, first, h.url))
	a.command.Stderr = os.Stderr
	output, err := a.command.StdoutPipe()
	if err == nil {
		err = a.command.Start()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	go h.listen(a, output)
	h.t.Cleanup(func() { h.kill(a) })
	return a
}

func (h *herd) listen(a *animal, output io.Reader) {
	defer close(a.done)
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		var what string
		var n, generation int
		_, err := fmt.Sscanf(lines.Text(), "%s %d %d", &what, &n, &generation)
		h.mu.Lock()
		switch {
		case err != nil:
			h.fault = errors.Join(h.fault, fmt.Errorf("a process said %q", lines.Text()))
		case what == "refused":
			h.refused++
		case what == "owner":
			h.owner[n] = append(h.owner[n], a.first)
		default:
			h.stored[n] = true
			if generation != 1 {
				h.fault = errors.Join(h.fault, fmt.Errorf("enrolment %d was stored as generation %d", n, generation))
			}
			a.told <- struct{}{}
		}
		h.mu.Unlock()
	}
}

// await waits until a process was told of so many enrolments more.
func (h *herd) await(what string, n int, animals ...*animal) {
	h.t.Helper()
	for _, a := range animals {
		for len(a.told) > 0 {
			<-a.told
		}
		deadline := time.After(2 * time.Minute)
		for range n {
			select {
			case <-a.told:
			case <-a.done:
				h.t.Fatalf("%s: a process ended by itself", what)
			case <-deadline:
				h.t.Fatalf("%s: no enrolments any more", what)
			}
		}
	}
}

func (h *herd) kill(a *animal) {
	_ = a.command.Process.Kill() // it may be dead already
	<-a.done
	_ = a.command.Wait() // it was killed
}

// Several processes share a primary with a synchronous standby. A process is
// killed, the primary is killed and recovers, and is killed for good while the
// standby takes over. Whatever a process was told is there, opens, and is there
// once; a KeID that all of them wanted belongs to one Enrolee.
// This does not test the sync of the disk, which a kill does not undo.
func TestCrash(t *testing.T) {
	if task, ok := os.LookupEnv(victimVariable); ok {
		t.Fatal(victim(t, task))
	}
	rounds := 1
	if text, ok := os.LookupEnv(roundsVariable); ok {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for round := range rounds {
		disasters(t, round)
	}
}

func disasters(t *testing.T, round int) {
	primary := mustertest.NewCluster(t)
	standby := standbyOf(t, primary)
	url := mustertest.PostgreSQLURL(primary.Address() + "," + standby.Address())
	if err := postgres.Create(t.Context(), url, sealer(t)); err != nil {
		t.Fatal(err)
	}
	h := &herd{t: t, url: url, stored: make(map[int]bool), owner: make(map[int][]int)}
	const enough = 200
	one, two := h.start(10_000_000), h.start(20_000_000)
	h.await("at first", enough, one, two)

	h.kill(one)
	h.await("after the death of another process", enough, two)
	one = h.start(30_000_000)
	h.await("after the start of another process", enough, one, two)

	if err := errors.Join(primary.Kill(), primary.Start()); err != nil {
		t.Fatal(err)
	}
	h.await("after the primary's recovery", enough, one, two)

	if err := errors.Join(primary.Kill(), standby.Promote()); err != nil {
		t.Fatal(err)
	}
	h.await("after the promotion", enough, one, two)
	h.kill(one)
	h.kill(two)
	h.judge(round, standby)
}

func standbyOf(t testing.TB, primary *mustertest.Cluster) *mustertest.Cluster {
	t.Helper()
	standby, err := primary.Standby()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Remove(); err != nil {
			t.Error(err)
		}
	})
	if err := primary.Set(map[string]string{"synchronous_standby_names": "standby"}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		state, err := primary.SQL("SELECT sync_state FROM pg_stat_replication")
		if err == nil && state == "sync" {
			return standby
		}
		if time.Now().After(deadline) {
			t.Fatalf("the standby is not synchronous: %q, %v", state, err)
		}
	}
}

// judge compares what is there with what the processes were told.
func (h *herd) judge(round int, server *mustertest.Cluster) {
	t := h.t
	if h.fault != nil {
		t.Error(h.fault)
	}
	told := make([]mef.Enrolment, 0, len(h.stored)+len(h.owner))
	for n := range h.stored {
		told = append(told, enrolment(t, n))
	}
	for n, owners := range h.owner {
		if len(slices.Compact(slices.Sorted(slices.Values(owners)))) != 1 {
			t.Errorf("the contested KeID %d was given to the processes %v", n, owners)
		}
		told = append(told, contend(t, n, owners[0]+n))
	}
	// Each Enrolee has one enrolment for one target.
	present, err1 := server.SQL("SELECT count(*) FROM enrolment")
	doubled, err2 := server.SQL("SELECT count(*) FROM enrolment WHERE generation > 1 OR part > 0")
	if err := errors.Join(err1, err2); err != nil || doubled != "0" {
		t.Errorf("%s enrolments are doubled, %v", doubled, err)
	}
	store := openAt(t, h.url)
	var lost atomic.Int32
	spread(t, 64, len(told), func(n int) error {
		if err := whole(t.Context(), store, told[n]); err != nil {
			lost.Add(1)
			t.Error(err)
		}
		return nil
	})
	if len(h.owner) == 0 || h.refused == 0 {
		t.Errorf("%d contested KeIDs and %d refusals, want some of both", len(h.owner), h.refused)
	}
	t.Logf("round %d: acknowledged %d, present %s, lost %d, doubled %s; %d calls refused", round, len(told), present, lost.Load(), doubled, h.refused)
}

// whole returns an error unless the store has an enrolment, once, and its key opens.
func whole(ctx context.Context, store mef.Store, e mef.Enrolment) error {
	fetched, err := fetch(ctx, store, e)
	if err != nil || !fetched.Ke.Equal(e.Ke) || fetched.EnroleeID != e.EnroleeID {
		return fmt.Errorf("%s was acknowledged, and now: %w", e.KeID, err)
	}
	if stored, err := store.CreateEnrolment(ctx, e, 1<<30); err != nil || stored.Generation != 1 {
		return fmt.Errorf("%s is not itself any more: generation %d, %w", e.KeID, stored.Generation, err)
	}
	return nil
}

// spread runs a function for each number below n in so many goroutines.
func spread(t testing.TB, goroutines, n int, run func(n int) error) {
	t.Helper()
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
			t.Fatal(err)
		}
	}
}
