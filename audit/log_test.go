package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"muster/audit"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, config audit.Config) *audit.Log {
	t.Helper()
	config.Writer = "mef.example.com"
	log, err := audit.Open(config)
	must(t, err)
	t.Cleanup(func() { _ = log.Close() })
	return log
}

// written returns the path of a closed log with n entries.
func written(t testing.TB, n int, maxSize int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.log")
	log := open(t, audit.Config{Path: path, MaxSize: maxSize})
	for i := range n {
		must(t, log.Record(t.Context(), audit.Entry{Kind: audit.KindEnrolled, Who: fmt.Sprint("device ", i)}))
	}
	must(t, log.Close())
	return path
}

func TestEntriesAreChainedAcrossRestartsAndFiles(t *testing.T) {
	t.Parallel()
	path := written(t, 10, 600)
	log := open(t, audit.Config{Path: path, MaxSize: 600})
	must(t, log.Record(t.Context(), audit.Entry{Kind: audit.KindStarted, What: strings.Repeat("\x00é", 1000)}))
	must(t, log.Close())
	if err := log.Record(t.Context(), audit.Entry{}); !errors.Is(err, audit.ErrClosed) {
		t.Error("a closed log took an entry:", err)
	}
	var seen []audit.Entry
	head, err := audit.Verify(path, audit.Head{}, audit.Head{}, func(e audit.Entry) { seen = append(seen, e) })
	must(t, err)
	if head.Seq != 11 || len(seen) != 11 || seen[10].Writer != "mef.example.com" || len(seen[10].What) > 512 {
		t.Errorf("the log ends with %v, entries %v", head, seen)
	}
	files, err := filepath.Glob(path + "*")
	must(t, err)
	if len(files) < 3 {
		t.Error("no file was closed:", files)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		must(t, err)
		if info.Mode() != 0o600 {
			t.Errorf("%s has mode %v", file, info.Mode())
		}
	}
	must(t, os.Remove(files[1])) // the oldest: files[0] is the open one
	log = open(t, audit.Config{Path: path})
	must(t, log.Record(t.Context(), audit.Entry{Kind: audit.KindStarted})) // as after archiving
	must(t, log.Close())
	if _, err := audit.Verify(path, audit.Head{}, audit.Head{}, nil); !errors.Is(err, audit.ErrBroken) {
		t.Error("the loss of a file was not found:", err)
	}
}

// TestAnyChangeIsFound flips each octet in turn, and removes, repeats and swaps lines.
func TestAnyChangeIsFound(t *testing.T) {
	t.Parallel()
	path := written(t, 3, 0)
	text, err := os.ReadFile(path)
	must(t, err)
	head, err := audit.Verify(path, audit.Head{}, audit.Head{}, nil)
	must(t, err)
	again, err := audit.ParseHead(head.String())
	must(t, err)
	wantBroken := func(what string, changed []byte) {
		t.Helper()
		must(t, os.WriteFile(path, changed, 0o600))
		if _, err := audit.Verify(path, audit.Head{}, again, nil); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%s was not found: %v", what, err)
		}
	}
	for i := range text {
		changed := bytes.Clone(text)
		changed[i] ^= 1
		wantBroken(fmt.Sprint("a change of octet ", i), changed)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	join := func(order ...int) (all []byte) {
		for _, i := range order {
			all = append(all, lines[i]...)
		}
		return all
	}
	wantBroken("a missing first entry", join(1, 2))
	wantBroken("a missing entry", join(0, 2))
	wantBroken("a repeated entry", join(0, 1, 1, 2))
	wantBroken("a swap", join(1, 0, 2))
	wantBroken("a cut against the pinned head", join(0, 1))
	wantBroken("an emptied log", nil)
	must(t, os.WriteFile(path, join(0, 2), 0o600))
	if _, err := audit.Open(audit.Config{Path: path}); !errors.Is(err, audit.ErrBroken) {
		t.Error("a changed log was opened:", err)
	}
}

func TestTornLineIsRemoved(t *testing.T) {
	t.Parallel()
	path := written(t, 2, 0)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = file.WriteString(`{"seq":3,"ti`)
	must(t, errors.Join(err, file.Close()))
	log := open(t, audit.Config{Path: path})
	must(t, log.Record(t.Context(), audit.Entry{Kind: audit.KindStarted}))
	must(t, log.Close())
	if head, err := audit.Verify(path, audit.Head{}, audit.Head{}, nil); err != nil || head.Seq != 3 {
		t.Error(head, err)
	}
}

func TestConcurrentEntries(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	log := open(t, audit.Config{Path: path, MaxSize: 4096})
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 20 {
				if err := log.Record(t.Context(), audit.Entry{Kind: audit.KindFetched}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	must(t, log.Close())
	if head, err := audit.Verify(path, audit.Head{}, audit.Head{}, nil); err != nil || head.Seq != 160 {
		t.Error(head, err)
	}
}

// TestLogHasItsFileToItself keeps a second writer, as a MAF that names the file of
// its MEF, from forking the chain, after a rotation too.
func TestLogHasItsFileToItself(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	log := open(t, audit.Config{Path: path, MaxSize: 1})
	for range 2 {
		if _, err := audit.Open(audit.Config{Path: path}); !errors.Is(err, audit.ErrInUse) {
			t.Errorf("opened twice: %v", err)
		}
		for range 2 {
			must(t, log.Record(t.Context(), audit.Entry{Kind: audit.KindStarted}))
		}
	}
	must(t, log.Close())
	must(t, open(t, audit.Config{Path: path}).Record(t.Context(), audit.Entry{Kind: audit.KindStarted}))
	if head, err := audit.Verify(path, audit.Head{}, audit.Head{}, nil); err != nil || head.Seq != 5 {
		t.Error(head, err)
	}
}

func TestSyslog(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "log")
	server, err := net.ListenPacket("unixgram", socket)
	must(t, err)
	defer server.Close()
	sink, err := audit.NewSyslog("unixgram://" + socket)
	must(t, err)
	log := open(t, audit.Config{Path: filepath.Join(t.TempDir(), "audit.log"), Sinks: []audit.Sink{sink}})
	must(t, log.Record(t.Context(), audit.Entry{Kind: audit.KindRefused, Code: "banned"}))
	message := make([]byte, 4096)
	n, _, err := server.ReadFrom(message)
	must(t, err)
	if got := string(message[:n]); !strings.HasPrefix(got, "<108>1 ") || !strings.Contains(got, ` refused - {"seq":1,`) {
		t.Errorf("syslog got %q", got)
	}
	must(t, server.Close())
	if err := log.Record(t.Context(), audit.Entry{Kind: audit.KindRefused}); err == nil {
		t.Error("nobody heard it, and it was recorded")
	}
	if _, err := audit.NewSyslog("http://x"); err == nil {
		t.Error("http is not syslog")
	}
}

// TestStalledSyslog has a server that reads nothing: once the time of an entry is
// up, those behind it are not made to wait for the same.
func TestStalledSyslog(t *testing.T) {
	t.Parallel()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer server.Close()
	sink, err := audit.NewSyslog("tcp://" + server.Addr().String())
	must(t, err)
	if err := sink.Write([]audit.Line{{Text: make([]byte, 16<<20)}}); err == nil {
		t.Fatal("the server has read 16 MiB")
	}
	if err := sink.Write([]audit.Line{{}}); err == nil {
		t.Error("the server was asked again at once")
	}
	must(t, sink.Close())
}

// Octets that verify are octets that Record has written: no entry can be changed or
// put behind another without the hash that belongs to it.
func FuzzVerify(f *testing.F) {
	const (
		first  = `{"seq":1,"time":"2026-01-01T00:00:00Z","writer":"mef.example.com","kind":"enrolled","who":"device 0","prev":"0000000000000000000000000000000000000000000000000000000000000000","hash":"921ef04cc17197336ea7d6bf17e80ea0e4ebd808d157673e7203ec3a2e4c2934"}` + "\n"
		second = `{"seq":2,"time":"2026-01-01T00:00:00Z","writer":"mef.example.com","kind":"enrolled","who":"device 1","prev":"921ef04cc17197336ea7d6bf17e80ea0e4ebd808d157673e7203ec3a2e4c2934","hash":"55988c02220ffc909e532537efd171457aec968a6a3b1567fc534b328b2b3754"}` + "\n"
	)
	for _, text := range []string{"", first, first + second, second, strings.TrimSpace(first), "{}\n" + first} {
		f.Add([]byte(text))
	}
	path := filepath.Join(f.TempDir(), "audit.log")
	f.Fuzz(func(t *testing.T, octets []byte) {
		must(t, os.WriteFile(path, octets, 0o600))
		var read uint64
		head, err := audit.Verify(path, audit.Head{}, audit.Head{}, func(audit.Entry) { read++ })
		text := string(octets)
		if genuine := text == "" || text == first || text == first+second; genuine != (err == nil) || !genuine && !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%q: %v", text, err)
		}
		if !strings.HasPrefix(text, (first + second)[:read*uint64(len(first))]) || read != head.Seq {
			t.Errorf("%q has %d entries, up to %v", text, read, head)
		}
		if same, err := audit.ParseHead(head.String()); err != nil || same != head {
			t.Errorf("%v is read as %v, %v", head, same, err)
		}
		if head, err := audit.ParseHead(text); err == nil && head.String() != text {
			t.Errorf("%q is read as %v", text, head)
		}
	})
}
