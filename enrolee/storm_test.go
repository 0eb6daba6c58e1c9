package enrolee

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

// A storm is devices that come back at one moment, and a function that serves
// some of them. Its time is that of the simulation.
type storm struct {
	devices int
	rate    float64 // sessions that the function completes in a second
	queue   int     // sessions that may wait; one more is refused
	// refusal is what it costs to refuse a session, in sessions.
	refusal float64
	chance  func() float64
}

// A calm is what became of a storm.
type calm struct {
	half, most, all  time.Duration // until 50 %, 99 % and 100 % of the devices were served
	served, attempts int
	idle             time.Duration // in which the function had nothing to do before most were served
}

const stormTick = 100 * time.Millisecond

// pass lets time run in ticks until every device is served, or for as long as is
// given. A device that is refused waits as the Enrolee of this package waits.
func (s storm) pass(limit time.Duration) (c calm) {
	refused := errors.New("refused")
	device := &Enrolee{config: Config{Rand: s.chance}}
	failures := make([]uint8, s.devices)
	arrivals := map[int][]int32{} // tick → devices
	for d := range int32(s.devices) {
		arrivals[0] = append(arrivals[0], d)
	}
	perTick := s.rate * stormTick.Seconds()
	waiting, capacity := 0, 0.0
	for tick := 0; c.served < s.devices && time.Duration(tick)*stormTick < limit; tick++ {
		capacity = min(capacity, 0) + perTick // what is not used is lost; a debt of refusals stays
		for _, d := range arrivals[tick] {
			c.attempts++
			if waiting < s.queue {
				waiting++
				continue
			}
			capacity -= s.refusal
			wait := device.backoff(int(failures[d]), refused)
			failures[d]++
			later := tick + 1 + int(wait/stormTick)
			arrivals[later] = append(arrivals[later], d)
		}
		delete(arrivals, tick)
		n := max(min(waiting, int(capacity)), 0)
		if n == 0 && waiting == 0 && c.served < s.devices*99/100 {
			c.idle += stormTick
		}
		waiting, c.served, capacity = waiting-n, c.served+n, capacity-float64(n)
		for share, at := range map[int]*time.Duration{50: &c.half, 99: &c.most, 100: &c.all} {
			if *at == 0 && c.served*100 >= s.devices*share {
				*at = time.Duration(tick+1) * stormTick
			}
		}
	}
	return c
}

// stormRates are sessions a second: what a core completed when it was measured, of
// enrolments over DTLS and over TLS and of re-attachments over DTLS and over TLS, and
// what a cell of docs/scale.md is planned for.
func stormRates() []float64 { return []float64{340, 490, 1350, 2080, 8300} }

// TestPowerCutStorm brings a million devices back in the same tenth of a second.
// With the jitter of the Enrolee, functions of any size serve them not much later
// than they could at best. Without jitter, which is the negative control, devices
// return in step, and the function idles between the waves.
func TestPowerCutStorm(t *testing.T) {
	t.Parallel()
	devices, scale := 1_000_000, 1.0
	if testing.Short() {
		devices, scale = 100_000, 0.1
	}
	for _, rate := range stormRates() {
		chance := rand.New(rand.NewPCG(1, 1_000_000)).Float64
		s := storm{devices: devices, rate: rate * scale, queue: int(8192 * scale), refusal: 0.02, chance: chance}
		best := time.Duration(float64(devices) / s.rate * float64(time.Second)).Round(time.Second)
		c := s.pass(24 * time.Hour)
		t.Logf("%.0f sessions/s: at best %v; 50 %% in %v, 99 %% in %v, all in %v; %.1f attempts a device, idle for %v", rate, best,
			c.half.Round(time.Second), c.most.Round(time.Second), c.all.Round(time.Second), float64(c.attempts)/float64(devices), c.idle.Round(time.Second))
		if c.served != devices || c.most > 2*best+backoffCap/2 {
			t.Errorf("%.0f sessions/s: %d devices served, 99 %% in %v", rate, c.served, c.most)
		}
		s.chance = func() float64 { return 0.999 }
		inStep := s.pass(c.most)
		t.Logf("%.0f sessions/s, without jitter: %.0f %% by then, idle for %v", rate, 100*float64(inStep.served)/float64(devices), inStep.idle.Round(time.Second))
		if inStep.served > devices*3/4 {
			t.Errorf("without jitter, %d devices were served by then: the simulation tells nothing of jitter", inStep.served)
		}
	}
}
