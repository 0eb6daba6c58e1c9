package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"muster"
	"muster/enrolee"
	"muster/maf"
	"muster/mef"
)

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

// A world is a laboratory whose MEF and MAF run on free ports, with a note of
// all that they log and make durable.
type world struct {
	t      testing.TB
	lab    *laboratory
	mef    *mefConfig // may be changed before startMEF
	maf    *mafConfig // may be changed before startMAF
	mefLog *journal
	mafLog *journal
	ledger *ledger

	mefAddresses listenConfig // once started
	mafAddress   string       // over DTLS
	mafTLS       string       // if it listens there
	mefService   *service
	mafService   *service
}

// newWorld writes a laboratory. Nothing runs yet.
func newWorld(t testing.TB, devices int) *world {
	t.Helper()
	return newWorldOf(t, devices, byCertificate)
}

// newWorldOf is a world whose devices have a kind of credential.
func newWorldOf(t testing.TB, devices int, credential credentialKind) *world {
	t.Helper()
	lab := &laboratory{Dir: t.TempDir(), Devices: devices, credential: credential, now: time.Now()}
	must(t, lab.write())
	w := &world{t: t, lab: lab, mefLog: newJournal(), mafLog: newJournal(), ledger: newLedger()}
	var err error
	w.mef, err = readMEFConfig(lab.path("mef.yaml"))
	must(t, err)
	w.maf, err = readMAFConfig(lab.path("maf.yaml"))
	must(t, err)
	w.mef.Listen = listenConfig{TLS: "127.0.0.1:0", DTLS: "127.0.0.1:0"}
	w.maf.Listen = listenConfig{DTLS: "127.0.0.1:0"}
	return w
}

// newRunningWorld is a world in which both functions run.
func newRunningWorld(t testing.TB, devices int) *world {
	t.Helper()
	w := newWorld(t, devices)
	w.startMEF()
	w.startMAF()
	return w
}

// startMEF runs the MEF until the test ends or the result is called.
func (w *world) startMEF() (stop func()) {
	w.t.Helper()
	s, err := startMEF(context.Background(), w.mef, newLogger(w.mefLog), w.ledger.observer())
	must(w.t, err)
	w.mefService = s
	w.mefAddresses = listenConfig{TLS: s.tls.Addr().String(), DTLS: s.dtls.Addr().String()}
	w.maf.MEFs[0].Address = w.mefAddresses.TLS
	return w.stopper(s)
}

// startMAF runs the MAF until the test ends or the result is called.
func (w *world) startMAF() (stop func()) {
	w.t.Helper()
	s, err := startMAF(context.Background(), w.maf, newLogger(w.mafLog), w.ledger.observer())
	must(w.t, err)
	w.mafService = s
	w.mafAddress = s.dtls.Addr().String()
	if s.tls != nil {
		w.mafTLS = s.tls.Addr().String()
	}
	return w.stopper(s)
}

func (w *world) stopper(s *service) func() {
	var once sync.Once
	stop := func() {
		once.Do(func() {
			if err := s.stop(); err != nil {
				w.t.Errorf("stop: %v", err)
			}
		})
	}
	w.t.Cleanup(stop)
	return stop
}

// deviceConfig is the configuration of a device of the laboratory, with the
// addresses at which the functions listen now.
func (w *world) deviceConfig(n int, via transport) *enroleeConfig {
	w.t.Helper()
	config, err := readEnroleeConfig(w.lab.path(w.lab.deviceFile(n) + ".yaml"))
	must(w.t, err)
	config.MEF.Transport, config.MEF.Address, config.MAF.Address = via, w.mefAddresses.TLS, w.mafAddress
	if via == overDTLS {
		config.MEF.Address = w.mefAddresses.DTLS
	}
	if config.MAF.Address == "" {
		config.MAF.Address = "127.0.0.1:9" // discard: for tests that have no MAF
	}
	return config
}

// device is the Enrolee of a configuration, until the test ends.
func (w *world) device(config *enroleeConfig) *enrolee.Enrolee {
	w.t.Helper()
	device, closeDevice, err := newEnrolee(config, io.Discard)
	must(w.t, err)
	w.t.Cleanup(func() { _ = closeDevice() })
	return device
}

// attached enrols a device and returns its credential after a first session
// under its KmID.
func (w *world) attached(config *enroleeConfig) enrolee.Credential {
	w.t.Helper()
	device, closeDevice, err := newEnrolee(config, io.Discard)
	must(w.t, err)
	defer func() { _ = closeDevice() }()
	attachment, err := device.Ensure(w.t.Context())
	must(w.t, err)
	must(w.t, attachment.Close())
	return attachment.Credential
}

// count returns how many rows a table of a function's store has.
func (w *world) count(store storeConfig, table string) int {
	w.t.Helper()
	return w.countWhere(store, table, "TRUE")
}

func (w *world) countWhere(store storeConfig, table, condition string) (rows int) {
	w.t.Helper()
	db := w.open(store)
	defer func() { _ = db.Close() }()
	must(w.t, db.QueryRow("SELECT count(*) FROM "+table+" WHERE "+condition).Scan(&rows))
	return rows
}

// open reads a store beside the function that has it open.
func (w *world) open(store storeConfig) *sql.DB {
	w.t.Helper()
	db, err := sql.Open("sqlite", "file:"+store.Path+"?mode=ro&_pragma=busy_timeout(5000)")
	must(w.t, err)
	return db
}

// nothingStored fails the test if the MEF or the MAF holds anything.
func (w *world) nothingStored() {
	w.t.Helper()
	for _, table := range []string{"enrolment", "credential", "registration"} {
		for name, store := range map[string]storeConfig{"MEF": w.mef.Store, "MAF": w.maf.Store} {
			if rows := w.count(store, table); rows != 0 {
				w.t.Errorf("the %s has %d rows in table %s", name, rows, table)
			}
		}
	}
}

// A ledger notes what MEF and MAF say that they have made durable.
type ledger struct {
	mu       sync.Mutex
	enrolled map[muster.KeID]mef.Enrolment // guarded by mu
	attached map[string]maf.Credential     // guarded by mu; by psk_identity
}

func newLedger() *ledger {
	return &ledger{enrolled: map[muster.KeID]mef.Enrolment{}, attached: map[string]maf.Credential{}}
}

func (l *ledger) observer() observer {
	return observer{
		enrolled: func(e mef.Enrolment) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.enrolled[e.KeID] = e
		},
		attached: func(c maf.Credential, identity string) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.attached[identity] = c
		},
	}
}

// enrolments returns all that the MEF has stored.
func (l *ledger) enrolments() []mef.Enrolment {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []mef.Enrolment
	for _, e := range l.enrolled {
		all = append(all, e)
	}
	return all
}

// awaitEnrolment waits until the MEF has stored a KeID.
func (l *ledger) awaitEnrolment(t testing.TB, id muster.KeID) mef.Enrolment {
	t.Helper()
	return await(t, "the MEF does not store "+id.String(), func() (mef.Enrolment, bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		e, ok := l.enrolled[id]
		return e, ok
	})
}

// awaitAttachment waits until the MAF has a session under a psk_identity.
func (l *ledger) awaitAttachment(t testing.TB, identity string) maf.Credential {
	t.Helper()
	return await(t, "the MAF has no session under "+identity, func() (maf.Credential, bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		c, ok := l.attached[identity]
		return c, ok
	})
}

func await[T any](t testing.TB, failure string, look func() (T, bool)) T {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if v, ok := look(); ok {
			return v
		}
	}
	t.Fatal(failure)
	panic("unreachable")
}

// An entry is a line in a log.
type entry struct {
	Level slog.Level
	Msg   string
	Code  muster.Code
	Error string
	// Explain is the command that explains a refused chain.
	Explain string
}

// A journal is a log that can be asked.
type journal struct {
	mu      sync.Mutex
	entries []entry // guarded by mu
}

func newJournal() *journal { return new(journal) }

// Write takes one line of slog's JSON.
func (j *journal) Write(line []byte) (int, error) {
	var e entry
	if err := json.Unmarshal(line, &e); err != nil {
		return 0, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, e)
	return len(line), nil
}

// await waits for a line with a code.
func (j *journal) await(t testing.TB, code muster.Code) entry {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if i := slices.IndexFunc(j.all(), func(e entry) bool { return e.Code == code }); i >= 0 {
			return j.all()[i]
		}
	}
	t.Fatalf("no line with the code %q; the log:\n%s", code, j)
	return entry{}
}

func (j *journal) all() []entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.entries)
}

// says reports whether a line has a message.
func (j *journal) says(message string) bool {
	return slices.ContainsFunc(j.all(), func(e entry) bool { return e.Msg == message })
}

func (j *journal) String() string {
	var text strings.Builder
	for _, e := range j.all() {
		fmt.Fprintf(&text, "%s %s [%s] %s\n", e.Level, e.Msg, e.Code, e.Error)
	}
	return text.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// errorOf leaves out what came with an error.
func errorOf[T any](_ T, err error) error { return err }

// wantCode fails the test unless err is a refusal with a code.
func wantCode(t testing.TB, err error, code muster.Code) {
	t.Helper()
	if muster.CodeOf(err) != code || err == nil {
		t.Errorf("the error is %v, not a refusal with %s", err, code)
	}
}

func split(t testing.TB, address string) (host, port string) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	must(t, err)
	return host, port
}
