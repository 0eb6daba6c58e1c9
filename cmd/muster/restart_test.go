package main

import (
	"testing"

	"muster"
	"muster/enrolee"
)

// TestMAFRemembersOverARestart attaches a device, restarts the MAF, and stops the
// MEF for good: KmID, Km and registration are the same, and the device attaches
// without anybody asking the MEF.
func TestMAFRemembersOverARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	stopMEF := w.startMEF()
	stopMAF := w.startMAF()
	before := w.attached(w.deviceConfig(0, overTLS))
	registration := w.registration()
	stopMAF()
	stopMEF()

	for range 2 {
		stopMAF = w.startMAF()
		after := w.attached(w.deviceConfig(0, overTLS))
		if after.KmID != before.KmID || after.KeID != before.KeID || !after.Km.Equal(before.Km) || !after.Expires.Equal(before.Expires) {
			t.Errorf("the device has %s in place of %s, or another key", after.KmID, before.KmID)
		}
		w.agree(t, w.deviceConfig(0, overTLS).EnroleeID, after)
		stopMAF()
		if now := w.registration(); now != registration {
			t.Errorf("the registration is %q, and was %q", now, registration)
		}
	}
	if rows := w.countWhere(w.mef.Store, "enrolment", "fetches = 1"); rows != 1 {
		t.Error("the key was fetched again")
	}
}

// registration is the only one that the MAF holds.
func (w *world) registration() (row string) {
	w.t.Helper()
	db := w.open(w.maf.Store)
	defer func() { _ = db.Close() }()
	must(w.t, db.QueryRow("SELECT id || ' ' || client_id || ' ' || admin_fqdn || ' ' || km_id || ' ' || created || ' ' || expires FROM registration").Scan(&row))
	return row
}

// TestKeIDStaysRetiredOverARestart stops the MAF after the KmID's first success.
func TestKeIDStaysRetiredOverARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.startMEF()
	stop := w.startMAF()
	c := w.attached(w.deviceConfig(0, overTLS))
	stop()
	w.startMAF()
	w.knockMAF(t, c.KeID.String(), c.Km.Reveal())
	w.mafLog.await(t, muster.CodeKeyRetired)
}

// TestMEFHandsOutOverARestart restarts the MEF between enrolment and attachment.
func TestMEFHandsOutOverARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	stop := w.startMEF()
	config := w.deviceConfig(0, overTLS)
	withDevice(t, config, func(device *enrolee.Enrolee) {
		_, err := device.Enrol(t.Context())
		must(t, err)
	})
	stop()
	w.startMEF()
	w.startMAF()
	withDevice(t, w.deviceConfig(0, overTLS), func(device *enrolee.Enrolee) {
		attachment, err := device.Attach(t.Context())
		must(t, err)
		w.agree(t, config.EnroleeID, attachment.Credential)
		must(t, attachment.Close())
	})
}

// TestRenewalReplacesTheCredential enrols a device that is attached again: the old
// credential serves until the new one has proved itself, and is refused then.
func TestRenewalReplacesTheCredential(t *testing.T) {
	t.Parallel()
	w := newRunningWorld(t, 1)
	config := w.deviceConfig(0, overDTLS)
	first := w.attached(config)
	withDevice(t, config, func(device *enrolee.Enrolee) {
		next, err := device.Enrol(t.Context())
		must(t, err)
		conn, err := w.dialer(config).DialMAF(t.Context(), first.KmID.String(), first.Km)
		must(t, err)
		must(t, conn.Close())
		attachment, err := device.Attach(t.Context())
		must(t, err)
		w.agree(t, config.EnroleeID, attachment.Credential)
		must(t, attachment.Close())
		if attachment.Credential.KeID != next.KeID {
			t.Errorf("the device is attached with %s, not with the new %s", attachment.Credential.KeID, next.KeID)
		}
	})
	w.knockMAF(t, first.KmID.String(), first.Km.Reveal())
}
