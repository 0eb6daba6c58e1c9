package main

import (
	"encoding/hex"
	"testing"

	"muster"
	"muster/enrolee/keyring"
	"muster/mustertest"
)

// newKeyWorld is a running world of one device that has a pre-provisioned key and
// no certificate. The MAF listens on TCP too.
func newKeyWorld(t *testing.T) *world {
	t.Helper()
	w := newWorldOf(t, 1, byKey)
	w.maf.Listen.TLS = "127.0.0.1:0"
	w.startMEF()
	w.startMAF()
	return w
}

// kpm is the identity and key of the device.
func (w *world) kpm() (muster.KpmID, muster.Kpm) {
	w.t.Helper()
	config := w.deviceConfig(0, overTLS).Kpm
	kpm, err := keyring.ReadKpm(config.Path, config.RootKey, config.ID)
	must(w.t, err)
	return config.ID, kpm
}

// opensslPSK opens a session with a pre-shared key and goes on when it stands.
func opensslPSK(t *testing.T, via transport, suite, address string, server muster.FQDN, identity string, key []byte) *mustertest.Peer {
	t.Helper()
	version := map[transport]string{overTLS: "-tls1_2", overDTLS: "-dtls1_2"}[via]
	return mustertest.StartPeer(t, "openssl", "s_client", version, "-connect", address, "-servername", server.String(),
		"-psk", hex.EncodeToString(key), "-psk_identity", identity, "-cipher", suite+":@SECLEVEL=0",
		"-keymatexport", bootstrapLabel, "-keymatexportlen", "48")
}

// gnutlsPSK is the same with GnuTLS.
func gnutlsPSK(t *testing.T, via transport, cipher, address string, server muster.FQDN, identity string, key []byte) *mustertest.Peer {
	t.Helper()
	host, port := split(t, address)
	args, version := []string{}, "NONE:+VERS-TLS1.2"
	if via == overDTLS {
		args, version = []string{"--udp"}, "NONE:+VERS-DTLS1.2"
	}
	return mustertest.StartPeer(t, "gnutls-cli", append(args, "--port", port, "--sni-hostname", server.String(),
		"--priority", version+gnutlsPriority+"PSK:+"+cipher, "--pskusername", identity, "--pskkey", hex.EncodeToString(key),
		"--keymatexport", bootstrapLabel, "--keymatexportsize", "48", host)...)
}

// TestForeignEnroleesWithKeys has devices without certificates, in the words of
// other stacks: the handshake with Kpm yields the Enrolment Key as one with
// certificates does, and the MAF is reached over TCP or UDP.
//
// TS-0003 8.3.2.1
func TestForeignEnroleesWithKeys(t *testing.T) {
	t.Parallel()
	type session func(t *testing.T, via transport, suite, address string, server muster.FQDN, identity string, key []byte) *mustertest.Peer
	for _, tt := range []struct {
		name   string
		open   session
		via    transport
		suite  string
		export string
	}{
		{"OpenSSL, 0x00A8 over TCP", opensslPSK, overTLS, "PSK-AES128-GCM-SHA256", opensslExport},
		{"OpenSSL, 0x00AE over TCP", opensslPSK, overTLS, "PSK-AES128-CBC-SHA256", opensslExport},
		{"OpenSSL, 0xC0A8 over UDP", opensslPSK, overDTLS, "PSK-AES128-CCM8", opensslExport},
		{"GnuTLS, 0x00A8 over TCP", gnutlsPSK, overTLS, "AES-128-GCM", gnutlsExport},
		{"GnuTLS, 0x00AE over TCP", gnutlsPSK, overTLS, "AES-128-CBC", gnutlsExport},
		{"GnuTLS, 0xC0A8 over UDP", gnutlsPSK, overDTLS, "AES-128-CCM-8", gnutlsExport},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newKeyWorld(t)
			mefAddress, mafAddress := w.mefAddresses.TLS, w.mafTLS
			if tt.via == overDTLS {
				mefAddress, mafAddress = w.mefAddresses.DTLS, w.mafAddress
			}
			id, kpm := w.kpm()
			printed := tt.open(t, tt.via, tt.suite, mefAddress, w.mef.FQDN, id.String(), kpm.Reveal()).Find(t, tt.export)
			keID, km := w.enrolledBy(t, 0, printed)
			tt.open(t, tt.via, tt.suite, mafAddress, w.maf.FQDN, keID.String(), km.Reveal()).Find(t, tt.export)
			w.attachedBy(t, 0, keID, km)
		})
	}
}

// TestStrangersWithKeys has OpenSSL fail in the name of a device: with a wrong
// key and under an unknown identity alike. Neither leaves a trace, and the device
// enrols as if nothing had happened.
func TestStrangersWithKeys(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	id, _ := w.kpm()
	wrong := make([]byte, muster.KeySize)
	for _, identity := range []string{id.String(), "stranger@" + w.mef.FQDN.String()} {
		peer := opensslPSK(t, overTLS, "PSK-AES128-GCM-SHA256", w.mefAddresses.TLS, w.mef.FQDN, identity, wrong)
		peer.Find(t, `(bad record mac|alert number 20)`)
	}
	w.mefLog.await(t, muster.CodeKeyUnknown)
	w.nothingStored()
	w.attached(w.deviceConfig(0, overTLS))
}
