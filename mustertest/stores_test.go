package mustertest_test

import (
	"testing"

	"muster/mustertest"
)

func openMemory(testing.TB) (*mustertest.Memory, func() *mustertest.Memory) {
	m := mustertest.NewMemory()
	return m, func() *mustertest.Memory { return m }
}

func TestMEFStore(t *testing.T) { mustertest.MEFStore(t, openMemory) }
func TestKpmStore(t *testing.T) { mustertest.KpmStore(t, openMemory) }
func TestMAFStore(t *testing.T) { mustertest.MAFStore(t, openMemory) }
func TestTEFStore(t *testing.T) { mustertest.TEFStore(t, openMemory) }

func TestKeyStore(t *testing.T)     { mustertest.KeyStore(t, openMemory) }
func TestCommandStore(t *testing.T) { mustertest.CommandStore(t, openMemory) }
func TestRegisters(t *testing.T)    { mustertest.Registers(t, openMemory) }
