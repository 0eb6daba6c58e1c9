package handshake_test

import (
	"testing"

	"muster/mustertest"
)

const serverName = "mef.example.com"

// A pki has the arguments of foreign programs as methods.
type pki struct{ *mustertest.FlatPKI }

func newPKI(t testing.TB) *pki {
	t.Helper()
	return &pki{mustertest.NewFlatPKI(t)}
}
