package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"muster/sqlite"
)

// crashVariable, if set, makes TestCrash the victim of another test: it holds the
// number of the first enrolment, the path of the database, and a setting of it or
// nothing, with line ends between them.
const crashVariable = "MUSTER_CRASH_VICTIM"

const victimWriters = 16

// victim enrols as fast as it can, while data keys come and go, and prints the
// number of each enrolment that the store acknowledged, until it is killed.
func victim(t *testing.T, task string) error {
	lines := strings.Split(task, "\n")
	first, err := strconv.Atoi(lines[0])
	if err != nil {
		return err
	}
	store := openAt(t, lines[1])
	if setting := lines[2]; setting != "" {
		if err := store.Pragma(t.Context(), setting); err != nil {
			return err
		}
	}
	failed := make(chan error)
	go func() {
		for {
			if err := reseal(t.Context(), store); err != nil {
				failed <- err
				return
			}
		}
	}()
	for w := range victimWriters {
		go func() {
			for n := first + w; ; n += victimWriters {
				if _, err := store.CreateEnrolment(t.Context(), enrolment(t, n), 10); err != nil {
					failed <- err
					return
				}
				// One write call a line: what the parent reads was acknowledged.
				if _, err := os.Stdout.WriteString(strconv.Itoa(n) + "\n"); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

// reseal puts everything under a new data key, in slices.
func reseal(ctx context.Context, store *sqlite.Store) error {
	err := store.RotateDataKey(ctx)
	for n := 1; n > 0 && err == nil; {
		n, err = store.Reseal(ctx, 20)
	}
	return err
}

// Whatever a killed process has acknowledged is there, opens, and is there once.
// This does not test the sync of the disk, which a kill does not undo.
func TestCrash(t *testing.T) {
	if task, ok := os.LookupEnv(crashVariable); ok {
		t.Fatal(victim(t, task))
	}
	t.Parallel()
	const lives = 5 // of a database
	path, l := "", newLedger()
	for round := range long(t, lives) {
		if round%lives == 0 {
			path, l = create(t), newLedger()
		}
		before := len(l.acknowledged)
		for _, n := range killed(t, path, "", round*1_000_000, 50+rand.IntN(400)) {
			l.acknowledged[n] = true
		}
		if len(l.acknowledged) == before {
			t.Fatalf("round %d acknowledged nothing", round)
		}
		l.reconcile(t, path)
	}
}

// wantWhole fails unless the store has an enrolment, once, and its key opens.
func wantWhole(t testing.TB, store *sqlite.Store, n int) {
	e := enrolment(t, n)
	fetched, err := fetch(t.Context(), store, e)
	if err != nil || !fetched.Ke.Equal(e.Ke) || fetched.Generation != 1 {
		t.Errorf("enrolment %d was acknowledged, and now: %v", n, err)
	}
	if stored, err := store.CreateEnrolment(t.Context(), e, 1); err != nil || stored.Generation != 1 {
		t.Errorf("enrolment %d is not itself any more: %v", n, err)
	}
}

// killed starts a victim, kills it after it acknowledged enough enrolments, and
// returns all that it acknowledged.
func killed(t *testing.T, path, setting string, first, enough int) []int {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrash$")
	command.Env = append(os.Environ(), fmt.Sprintf("%s=%d\n%s\n%s", crashVariable, first, path, setting))
	command.Stderr = os.Stderr
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var acknowledged []int
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatalf("the victim said %q", lines.Text())
		}
		acknowledged = append(acknowledged, n)
		if len(acknowledged) == 1 {
			if _, err := sqlite.Open(t.Context(), path, sealer(t), sqlite.Options{}); !errors.Is(err, sqlite.ErrInUse) {
				t.Errorf("the file that another process uses: %v, want ErrInUse", err)
			}
		}
		if len(acknowledged) == enough {
			// The rest of the moment is chance: the victim goes on writing.
			time.Sleep(time.Duration(rand.IntN(5000)) * time.Microsecond)
			if err := command.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := command.Wait(); err == nil {
		t.Error("the victim ended by itself")
	}
	return acknowledged
}
