package main

import (
	"context"
	"io"
	"testing"

	"muster"
	"muster/mustertest"
)

// onPostgres puts the stores of the world on a server, each in a schema of its own.
func (w *world) onPostgres(server *mustertest.Cluster) {
	w.t.Helper()
	for name, store := range map[string]*storeConfig{"mef": &w.mef.Store, "maf": &w.maf.Store} {
		if _, err := server.SQL("CREATE SCHEMA " + name); err != nil {
			w.t.Fatal(err)
		}
		*store = storeConfig{Postgres: server.URL("search_path", name), RootKey: store.RootKey}
		must(w.t, createStore(w.t.Context(), *store))
	}
}

// TestReplicas enrols a device at one MEF while its MAF asks another of the same
// database, and goes on with a MAF that never saw the device.
func TestReplicas(t *testing.T) {
	t.Parallel()
	server := mustertest.NewCluster(t)
	w := newWorld(t, 2)
	w.onPostgres(server)
	stopFirst := w.startMEF()
	first := w.mefAddresses
	w.startMEF() // which the MAF asks
	stopMAF := w.startMAF()

	config := w.deviceConfig(0, overTLS)
	config.MEF.Address = first.TLS
	before := w.attached(config)
	stopFirst()
	stopMAF()
	w.startMAF()
	after := w.attached(w.deviceConfig(0, overTLS))
	if after.KmID != before.KmID || !after.Km.Equal(before.Km) {
		t.Errorf("at another MAF of the same database the device has %s in place of %s, or another key", after.KmID, before.KmID)
	}
	w.agree(t, config.EnroleeID, after)
	if out, err := server.SQL("SELECT count(*), sum(fetches) FROM mef.enrolment"); err != nil || out != "1|1" {
		t.Errorf("rows and fetches are %s, %v", out, err)
	}
}

// TestDatabaseAway refuses a device while the database does not run, by a code
// that tells it to come again, and enrols it afterwards.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	server := mustertest.NewCluster(t)
	w := newWorld(t, 1)
	w.onPostgres(server)
	w.startMEF()
	w.startMAF()
	must(t, server.Kill())
	device, closeDevice, err := newEnrolee(w.deviceConfig(0, overTLS), io.Discard)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := device.Ensure(ctx); err == nil {
		t.Error("a device was enrolled without a database")
	}
	must(t, closeDevice())
	w.mefLog.await(t, muster.CodeStoreFailed)
	if _, err := openStore(t.Context(), w.mef.Store); muster.CodeOf(err) != muster.CodeUnreachable {
		t.Errorf("opening without a server: %v, want the code %s", err, muster.CodeUnreachable)
	}
	must(t, server.Start())
	device, closeDevice, err = newEnrolee(w.deviceConfig(0, overTLS), io.Discard)
	must(t, err)
	defer func() { must(t, closeDevice()) }()
	await(t, "the device is not attached when the database is back", func() (struct{}, bool) {
		attachment, err := device.Ensure(t.Context())
		if err != nil { // as long as connections to the old server come to light
			return struct{}{}, false
		}
		must(t, attachment.Close())
		return struct{}{}, true
	})
}
