package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"muster"
)

// A process is a function of muster in a process of its own.
type process struct {
	cmd       *exec.Cmd
	addresses map[string]string // at which it listens, by transport: tls, dtls, http or admin
	drained   chan struct{}     // closed at the end of its log
	cried     strings.Builder   // what it said besides its log, as the race detector does; whole once drained
}

// startFunction runs a function and waits until it has opened so many listeners.
func startFunction(t testing.TB, function, config string, listeners int) *process {
	t.Helper()
	p := &process{cmd: exec.Command("muster", function, "--config", config), addresses: map[string]string{}, drained: make(chan struct{})}
	stderr, err := p.cmd.StderrPipe()
	must(t, err)
	must(t, p.cmd.Start())
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		_ = p.cmd.Wait()
	})
	decoder := json.NewDecoder(stderr)
	for len(p.addresses) < listeners {
		var line struct{ Msg, Transport, Address string }
		must(t, decoder.Decode(&line))
		if line.Msg == "listening" {
			p.addresses[line.Transport] = line.Address
		}
	}
	go func() {
		defer close(p.drained)
		lines := bufio.NewScanner(io.MultiReader(decoder.Buffered(), stderr))
		for lines.Scan() {
			if line := lines.Text(); !strings.HasPrefix(line, "{") {
				p.cried.WriteString(line + "\n")
			}
		}
		_, _ = io.Copy(io.Discard, stderr) // should a line have been too long
	}()
	return p
}

// startProcess runs muster mef on the store of a world, and waits until it listens.
func (w *world) startProcess(t testing.TB) *process {
	t.Helper()
	p := startFunction(t, "mef", w.lab.path("mef.yaml"), 2)
	w.mefAddresses = listenConfig{TLS: p.addresses["tls"], DTLS: p.addresses["dtls"]}
	w.maf.MEFs[0].Address = w.mefAddresses.TLS
	return p
}

func (p *process) signal(t testing.TB, s os.Signal) {
	t.Helper()
	must(t, p.cmd.Process.Signal(s))
	<-p.drained
	_ = p.cmd.Wait()
}

// TestKilledMEFKeepsWhatItHasAnswered kills the MEF at random moments while
// devices enrol, and starts it again on the same store. Each enrolment of which a
// device has learnt can be fetched by the MAF then.
func TestKilledMEFKeepsWhatItHasAnswered(t *testing.T) {
	t.Parallel()
	const rounds, devicesPerRound, workers = 4, 40, 8
	w := newWorld(t, rounds*devicesPerRound)
	config, err := os.ReadFile(w.lab.path("mef.yaml"))
	must(t, err)
	must(t, os.WriteFile(w.lab.path("mef.yaml"), []byte(strings.ReplaceAll(string(config), ":7443", ":0")), 0o600))

	succeeded := map[muster.KeID]muster.Km{}
	var total int
	for round := range rounds {
		mef := w.startProcess(t)
		fresh := w.enrolUntilKilled(t, mef, round*devicesPerRound, devicesPerRound, workers)
		total += len(fresh)
		for id, km := range fresh {
			succeeded[id] = km
		}
		mef = w.startProcess(t)
		w.allRetrievable(t, fresh)
		mef.signal(t, syscall.SIGKILL)
	}
	t.Logf("%d of %d enrolments had succeeded when the MEF was killed", total, rounds*devicesPerRound)
	if total == 0 {
		t.Error("no device enrolled before the MEF was killed")
	}
	mef := w.startProcess(t)
	w.allRetrievable(t, succeeded) // the second fetch of three, after more kills
	mef.signal(t, syscall.SIGTERM)
	if code := mef.cmd.ProcessState.ExitCode(); code != exitOK {
		t.Errorf("told to stop, the MEF ended with %d", code)
	}
}

// enrolUntilKilled returns what devices have learnt of when the MEF is dead.
func (w *world) enrolUntilKilled(t testing.TB, mef *process, first, devices, workers int) map[muster.KeID]muster.Km {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	queue := make(chan *enroleeConfig, devices)
	for n := range devices {
		queue <- w.deviceConfig(first+n, []transport{overTLS, overDTLS}[n%2])
	}
	close(queue)
	var mu sync.Mutex
	succeeded := map[muster.KeID]muster.Km{}
	begun := make(chan struct{}, devices)
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for config := range queue {
				begun <- struct{}{}
				device, closeDevice, err := newEnrolee(config, io.Discard)
				if err != nil {
					t.Error(err)
					return
				}
				c, err := device.Enrol(ctx)
				if err == nil {
					mu.Lock()
					succeeded[c.KeID] = c.Km
					mu.Unlock()
				}
				_ = closeDevice()
			}
		})
	}
	for range rand.IntN(devices) + 1 { // dies while one of them is on its way
		<-begun
	}
	time.Sleep(rand.N(5 * time.Millisecond))
	mef.signal(t, syscall.SIGKILL)
	time.AfterFunc(100*time.Millisecond, cancel) // what it sent before is still read
	all.Wait()
	return succeeded
}

// allRetrievable fetches each enrolment as the MAF does.
func (w *world) allRetrievable(t testing.TB, enrolments map[muster.KeID]muster.Km) {
	t.Helper()
	client := w.mafClient(t, labMAF)
	for id, km := range enrolments {
		switch key, err := client.FetchCredential(t.Context(), id, muster.SUIDForMAF); {
		case err != nil:
			t.Errorf("the device has %s, and the MEF not: %v", id, err)
		case !key.Km.Equal(km):
			t.Errorf("the MEF has another key for %s", id)
		}
	}
}
