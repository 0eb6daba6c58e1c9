package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/enrolee"
)

// A fortress is a laboratory whose MEF and MAF are processes of their own, so that
// what they use can be told from what a test uses.
type fortress struct {
	t        testing.TB
	lab      *laboratory
	mef, maf *process
}

// newFortress starts both functions on quiet ports, with edits to their
// configurations.
func newFortress(t testing.TB, devices int, edit func(function, config string) string) *fortress {
	t.Helper()
	f := &fortress{t: t, lab: &laboratory{Dir: t.TempDir(), Devices: devices, now: time.Now()}}
	var err error
	f.lab.mefPort, err = quietPort()
	must(t, err)
	f.lab.mafPort, err = quietPort()
	must(t, err)
	must(t, f.lab.write())
	for _, function := range []string{"mef", "maf"} {
		file := f.lab.path(function + ".yaml")
		config, err := os.ReadFile(file)
		must(t, err)
		text := edit(function, string(config)) + "metrics: {listen: \"127.0.0.1:0\"}\n"
		must(t, os.WriteFile(file, []byte(text), 0o600))
	}
	f.start("mef")
	f.start("maf")
	return f
}

// start runs a function until the test ends or it is told to stop.
func (f *fortress) start(function string) {
	f.t.Helper()
	listeners := 3
	if strings.Contains(f.config(function), "\nadmin:") {
		listeners++
	}
	p := startFunction(f.t, function, f.lab.path(function+".yaml"), listeners)
	if function == "mef" {
		f.mef = p
	} else {
		f.maf = p
	}
}

func (f *fortress) config(function string) string {
	f.t.Helper()
	text, err := os.ReadFile(f.lab.path(function + ".yaml"))
	must(f.t, err)
	return string(text)
}

// restart tells a function to stop and starts it again on its store and ports.
func (f *fortress) restart(function string) {
	f.t.Helper()
	p := f.mef
	if function == "maf" {
		p = f.maf
	}
	p.signal(f.t, syscall.SIGTERM)
	if code := p.cmd.ProcessState.ExitCode(); code != exitOK {
		f.t.Errorf("told to stop, the %s ended with %d\n%s", function, code, p.cried.String())
	}
	f.start(function)
}

// device is an Enrolee that keeps its keys in memory and reaches both functions
// over one transport.
func (f *fortress) device(n int, via transport, edits ...func(*enroleeConfig)) *enrolee.Enrolee {
	f.t.Helper()
	config, err := readEnroleeConfig(f.lab.path(f.lab.deviceFile(n) + ".yaml"))
	must(f.t, err)
	config.MEF.Transport, config.MAF.Transport = via, via
	for _, edit := range edits {
		edit(config)
	}
	device, _, err := newEnroleeWith(config, io.Discard, new(memoryKeyring))
	must(f.t, err)
	return device
}

// A footprint is what a process uses.
type footprint struct {
	cpu        time.Duration // so far
	goroutines int
	heap       int // octets, with what is not collected yet
	files      int // open descriptors
	sessions   int // of authenticated peers
	enrolments int // that are durable, so far
	shaken     int // handshakes that have succeeded, from the first octet that was taken in
	inASecond  int // of those
}

// footprint asks a process's metrics and the system.
func (p *process) footprint() (f footprint, err error) {
	client := http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	response, err := client.Get("http://" + p.addresses["http"] + "/metrics")
	if err != nil {
		return f, err
	}
	defer func() { _ = response.Body.Close() }()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		name, labels, _ := strings.Cut(name, "{")
		number, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "go_goroutines":
			f.goroutines = int(number)
		case "go_memstats_heap_alloc_bytes":
			f.heap = int(number)
		case "muster_enrolments_total":
			f.enrolments = int(number)
		case "muster_sessions":
			f.sessions += int(number)
		case "muster_handshake_seconds_count":
			if strings.Contains(labels, `result="accepted"`) {
				f.shaken += int(number)
			}
		case "muster_handshake_seconds_bucket":
			if strings.Contains(labels, `result="accepted"`) && strings.Contains(labels, `le="1"`) {
				f.inASecond += int(number)
			}
		}
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	f.files, f.cpu = len(open), cpuOf(p.cmd.Process.Pid)
	return f, err
}

// least returns the least of several footprints in each respect: of the heap, that
// is what remains after a collection.
func least(all []footprint) (f footprint) {
	f = all[0]
	for _, other := range all[1:] {
		f.goroutines, f.heap, f.files = min(f.goroutines, other.goroutines), min(f.heap, other.heap), min(f.files, other.files)
	}
	return f
}

// median returns the middle of some times, 0 of none.
func median(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(all))[len(all)/2]
}
