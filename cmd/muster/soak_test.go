package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"muster"
	"muster/enrolee"
	"muster/tef"
)

// soakTime is how long the soak test takes, unless MUSTER_SOAK says so, as 1h.
const soakTime = 12 * time.Second

// TestSoak lets devices enrol, attach, register keys, expire and enrol again, while
// both functions are reloaded all the time, and restarted on their stores in the
// first half. Then goroutines, open files and memory have to stay as
// they are; in a run that MUSTER_SOAK asks for, latency too, and few rounds may fail.
func TestSoak(t *testing.T) {
	t.Parallel()
	const devices = 12
	lasts, lifetime, long := soakTime, "3s", os.Getenv("MUSTER_SOAK") != ""
	if long {
		lifetime = "20s"
		var err error
		lasts, err = time.ParseDuration(os.Getenv("MUSTER_SOAK"))
		must(t, err)
	}
	f := newFortress(t, devices, func(_, config string) string {
		return strings.ReplaceAll(config, "lifetime: 24h", "lifetime: "+lifetime)
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	crew := new(soakCrew)
	var all sync.WaitGroup
	for n := range devices {
		device := f.device(n, []transport{overTLS, overDTLS}[n%2], func(c *enroleeConfig) { c.Handshake.Timeout = 5 * time.Second })
		target := f.lab.names().Devices[(n+1)%devices].ID
		all.Go(func() { crew.work(ctx, device, target) })
	}
	for n := range 2 { // of each
		for _, function := range []string{"mef", "maf"} {
			_ = sleep(ctx, lasts/10)
			t.Logf("restart %d of the %s", n+1, function)
			f.restart(function)
		}
	}
	_ = sleep(ctx, lasts/10)
	settled, stop := context.WithTimeout(ctx, lasts/2)
	defer stop()
	for _, p := range []*process{f.mef, f.maf} {
		all.Go(func() { watchFootprint(t, settled, p) })
	}
	crew.phase.Store(1)
	for begun := time.Now(); sleep(settled, min(lasts/20, 5*time.Second)) == nil; {
		must(t, errors.Join(f.mef.cmd.Process.Signal(syscall.SIGHUP), f.maf.cmd.Process.Signal(syscall.SIGHUP)))
		if time.Since(begun) > lasts/4 {
			crew.phase.Store(2)
		}
	}
	cancel()
	all.Wait()
	crew.report(t, long)
	f.mef.signal(t, syscall.SIGTERM)
	f.maf.signal(t, syscall.SIGTERM)
}

// A soakCrew is devices that do the same again and again.
type soakCrew struct {
	phase atomic.Int32 // 0 while functions restart, then 1, and 2 for the second half of what is left

	mu       sync.Mutex
	took     [3][]time.Duration // of what succeeded, by phase; guarded by mu, as all below
	enrolled int                // credentials beyond each device's first
	failures [3]map[muster.Code]int
}

func (c *soakCrew) work(ctx context.Context, device *enrolee.Enrolee, target string) {
	var last muster.KeID
	for ctx.Err() == nil {
		begun := time.Now()
		id, err := soakRound(ctx, device, target)
		if ctx.Err() != nil {
			return
		}
		if err != nil { // for an hour, a device tries what it has; these have none
			_, _ = device.Enrol(ctx)
		}
		c.mu.Lock()
		phase := c.phase.Load()
		if err == nil {
			c.took[phase] = append(c.took[phase], time.Since(begun))
			if last != id && !last.IsZero() {
				c.enrolled++
			}
			last = id
		} else {
			if c.failures[phase] == nil {
				c.failures[phase] = map[muster.Code]int{}
			}
			c.failures[phase][muster.CodeOf(err)]++
		}
		c.mu.Unlock()
		_ = sleep(ctx, 100*time.Millisecond)
	}
}

func soakRound(ctx context.Context, device *enrolee.Enrolee, target string) (muster.KeID, error) {
	attachment, err := device.Ensure(ctx)
	if err != nil {
		return muster.KeID{}, err
	}
	_, err = attachment.RegisterKey(ctx, tef.KeyRegistration{Usage: tef.SUIDMAFForSAEF, Targets: []string{target}})
	return attachment.Credential.KeID, errors.Join(err, attachment.Close())
}

func (c *soakCrew) report(t *testing.T, long bool) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, took := range c.took {
		t.Logf("phase %d: %d rounds, median %v, failures %v", n, len(took), median(took), c.failures[n])
	}
	t.Logf("%d enrolments anew", c.enrolled)
	settled, failed := len(c.took[1])+len(c.took[2]), 0
	for _, failures := range c.failures[1:] {
		for n := range maps.Values(failures) {
			failed += n
		}
	}
	if settled == 0 || c.enrolled == 0 {
		t.Errorf("%d rounds without restarts, %d enrolments anew", settled, c.enrolled)
	}
	if long && failed > settled/4 { // within seconds, a busy machine alone makes as many fail
		t.Errorf("without restarts, %d rounds fail and %d succeed", failed, settled)
	}
	if early, late := median(c.took[1]), median(c.took[2]); long && late > 2*early {
		t.Errorf("the median grows from %v to %v", early, late)
	}
}

// watchFootprint fails the test if a process grows until ctx ends.
func watchFootprint(t *testing.T, ctx context.Context, p *process) {
	begun := time.Now()
	until, _ := ctx.Deadline()
	var thirds [3][]footprint
	failed := 0
	for ctx.Err() == nil {
		now, err := p.footprint()
		if err != nil {
			if failed++; failed > 10 { // one may be reset where the machine is busy
				t.Error(err)
				return
			}
			_ = sleep(ctx, 100*time.Millisecond)
			continue
		}
		failed = 0
		third := min(2, int(3*time.Since(begun)/until.Sub(begun)))
		thirds[third] = append(thirds[third], now)
		_ = sleep(ctx, 100*time.Millisecond)
	}
	if len(thirds[0]) == 0 || len(thirds[2]) == 0 {
		t.Log("the machine is too busy to look at anything")
		return
	}
	first, last := least(thirds[0]), least(thirds[2])
	name := fmt.Sprint(p.cmd.Args[1])
	t.Logf("the %s: at first %+v, at last %+v", name, first, last)
	if last.goroutines > first.goroutines*3/2+20 || last.files > first.files*3/2+20 || last.heap > first.heap*3/2+8<<20 {
		t.Errorf("the %s grows from %+v to %+v", name, first, last)
	}
}
