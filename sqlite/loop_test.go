//go:build linux

package sqlite_test

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/mustertest"
	"muster/sqlite"
)

// newFileSystem makes an ext4 file system in a file, and returns the file. The
// journal waits ten minutes before it commits by itself.
func newFileSystem(t testing.TB, megabytes int64) string {
	t.Helper()
	mustertest.RequirePeer(t, "mkfs.ext4")
	file := filepath.Join(t.TempDir(), "ext4")
	err := os.WriteFile(file, nil, 0o600)
	if err := errors.Join(err, os.Truncate(file, megabytes<<20)); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-m", "0", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	return file
}

// mount mounts a file system until the test ends or unmount is called. Where the
// system lets nobody do so, as in most containers, the test is skipped: what it
// proves, TestFailingDisk and TestPowerCut prove on a disk that they simulate.
func mount(t testing.TB, file, options string) (folder string, unmount func()) {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no loop devices here: %v", err)
	}
	_ = control.Close()
	folder = t.TempDir()
	output, err := exec.CommandContext(t.Context(), "mount", "-o", "loop,"+options, file, folder).CombinedOutput()
	switch {
	case err == nil:
	case strings.Contains(string(output), "permission denied") || strings.Contains(string(output), "must be superuser"):
		t.Skipf("no mounts here: %s", output)
	default:
		t.Fatalf("%v: %s", err, output)
	}
	mounted := true
	unmount = func() {
		if !mounted {
			return
		}
		mounted = false
		// A process that another test is just starting holds all files for a moment.
		output, err := exec.Command("umount", folder).CombinedOutput()
		for range 100 {
			if err == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
			output, err = exec.Command("umount", folder).CombinedOutput()
		}
		t.Errorf("%v: %s", err, output)
	}
	t.Cleanup(unmount)
	return folder, unmount
}

// A file system without space refuses writes and serves reads, and takes writes
// again as soon as there is space.
func TestFullFileSystem(t *testing.T) {
	t.Parallel()
	for series := range long(t, 1) {
		t.Run(strconv.Itoa(series), fillAndEmpty)
	}
}

func fillAndEmpty(t *testing.T) {
	folder, _ := mount(t, newFileSystem(t, 24), "commit=600")
	path := createIn(t, folder)
	store, err := sqlite.Open(t.Context(), path, sealer(t), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, credential := newLedger(), putCredential(t, store)
	ballast := filepath.Join(folder, "ballast")
	for round := range 3 {
		first := round * 1000
		if failed := endure(t, l, store, first, 50); failed != 0 {
			t.Errorf("%d writes failed beside free space", failed)
		}
		fill(t, ballast)
		if failed := endure(t, l, store, first+50, 100); failed == 0 {
			t.Error("no write failed without space")
		}
		wantRead(t, store, credential)
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
	if failed := endure(t, l, store, 1_000_000, 50); failed != 0 {
		t.Errorf("%d writes failed when there was space again", failed)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	l.reconcile(t, path)
}

// fill writes a file until there is no space.
func fill(t testing.TB, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = file.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		t.Fatal(err)
	}
}

// A store on a file system that cannot be written is refused at once, and harmed
// in nothing.
func TestReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	file := newFileSystem(t, 16)
	folder, unmount := mount(t, file, "rw")
	name := filepath.Base(createIn(t, folder))
	l := newLedger()
	store, err := sqlite.Open(t.Context(), filepath.Join(folder, name), sealer(t), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	endure(t, l, store, 0, 20)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	unmount()
	folder, unmount = mount(t, file, "ro")
	if store, err := sqlite.Open(t.Context(), filepath.Join(folder, name), sealer(t), sqlite.Options{}); err == nil {
		_ = store.Close()
		t.Error("a store opens that cannot be written")
	} else {
		t.Log(err)
	}
	unmount()
	folder, _ = mount(t, file, "rw")
	l.reconcile(t, filepath.Join(folder, name))
}

// cutPower has a victim write, kills it, and returns what was acknowledged and a
// folder with what the disk had at that moment: the octets of the loop device's
// file, without what the file system on it still held in memory.
func cutPower(t *testing.T, setting string) (l *ledger, folder string) {
	t.Helper()
	file := newFileSystem(t, 64)
	source, _ := mount(t, file, "commit=600")
	path := createIn(t, source)
	l = newLedger()
	for _, n := range killed(t, path, setting, 0, 200+rand.IntN(400)) {
		l.acknowledged[n] = true
	}
	octets, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "ext4")
	if err := os.WriteFile(cut, octets, 0o600); err != nil {
		t.Fatal(err)
	}
	folder, _ = mount(t, cut, "rw")
	return l, folder
}

// What was acknowledged survives a power cut on a real file system, as far as a
// file system's memory is lost and the disk keeps its word.
func TestPowerCutOfFileSystem(t *testing.T) {
	t.Parallel()
	for round := range long(t, 2) {
		t.Run(strconv.Itoa(round), func(t *testing.T) { // which unmounts at its end
			l, folder := cutPower(t, "")
			if len(l.acknowledged) == 0 {
				t.Fatal("nothing was acknowledged")
			}
			l.reconcile(t, filepath.Join(folder, "muster.db"))
		})
	}
}

// Without syncs the same cut loses, or it is none. Something else on the machine
// may sync everything at the wrong moment, so it may be tried again.
func TestPowerCutOfFileSystemWithoutSync(t *testing.T) {
	t.Parallel()
	for range 5 {
		l, folder := cutPower(t, "synchronous = OFF")
		path := filepath.Join(folder, "muster.db")
		store, err := sqlite.Open(t.Context(), path, sealer(t), sqlite.Options{})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Logf("after the cut: %v", err)
			return
		} else if err != nil {
			t.Fatal(err) // its creation was durable
		}
		b, damage := l.count(path)
		_ = store.Close() // may find the damage too
		if damage != nil || b.lost > 0 {
			t.Logf("%v, %v", b, damage)
			return
		}
	}
	t.Error("nothing was lost without syncs")
}
