package enrolee_test

import (
	"errors"
	"testing"
	"time"

	"muster/enrolee"
)

// TestEnsureGivesUpADeadCredential has a device that stopped between its session
// under the KeID and the note of its KmID, and returns when the KeID is retired.
func TestEnsureGivesUpADeadCredential(t *testing.T) {
	w := newWorld()
	device := w.device(t)
	if _, err := device.Enrol(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.retired = w.keID(1)
	w.now = w.now.Add(59 * time.Minute)
	if _, err := device.Ensure(t.Context()); !errors.Is(err, errDown) || w.enrolled != 1 {
		t.Errorf("enrolled %d times before the MAF had time to return: %v", w.enrolled, err)
	}
	w.now = w.now.Add(time.Minute)
	attachment, err := device.Ensure(t.Context())
	if err != nil {
		t.Fatalf("a device with a dead credential is locked out: %v", err)
	}
	if w.enrolled != 2 || attachment.Credential.KeID.String() != w.keID(2) {
		t.Errorf("enrolled %d times, attached with %s", w.enrolled, attachment.Credential.KeID)
	}
}

// TestMaintainSparesTheMEF has a MAF that is away for long: a MEF that sees a
// device enrol dozens of times suspects a clone.
func TestMaintainSparesTheMEF(t *testing.T) {
	w := newWorld()
	w.mafDown, w.chance = true, 1
	maintain(t, w, 73, func(int, enrolee.Event) {})
	// at first, and after 3, 6, 12, 24, 48 and 72 failures
	if w.enrolled != 7 {
		t.Errorf("enrolled %d times in %s", w.enrolled, w.now.Sub(newWorld().now))
	}
}

// TestMaintainIsNotRushed has a MAF whose registrations end almost at once.
func TestMaintainIsNotRushed(t *testing.T) {
	w := newWorld()
	w.lifetime, w.chance = time.Second, 0
	maintain(t, w, 20, func(n int, e enrolee.Event) {
		if e.Err != nil {
			t.Fatal(e.Err)
		}
	})
	if w.slept[0] < 2*time.Second || w.slept[19] != 15*time.Minute {
		t.Errorf("the device waits %v between enrolments", w.slept)
	}
}
