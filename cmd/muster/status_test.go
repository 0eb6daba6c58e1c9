package main

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"muster"
	"muster/mustertest"
	"muster/revocation"
)

// writeList writes a CRL of an authority that revokes some certificates.
func writeList(t *testing.T, issuer *mustertest.Authority, revoked ...*x509.Certificate) string {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(2), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, issuer.Certificate, issuer.Key)
	must(t, err)
	path := filepath.Join(t.TempDir(), "crl.pem")
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o600))
	return path
}

func TestMEFAsksAfterCertificates(t *testing.T) {
	t.Parallel()
	hard, soft, off := revocation.ModeHard, revocation.ModeSoft, revocation.ModeOff
	for _, tt := range []struct {
		name    string
		mode    revocation.Mode
		rule    *revocation.Mode
		lists   bool // whether the MEF has the lists of the device's authorities
		revoked bool
		code    muster.Code // "" if the device comes in
		alert   byte
	}{
		{"good", hard, nil, true, false, "", 0},
		{"revoked", hard, nil, true, true, muster.CodeRevoked, 44},
		{"revoked, where an unknown status is tolerated", soft, nil, true, true, muster.CodeRevoked, 44},
		{"unknown", hard, nil, false, false, muster.CodeStatusUnknown, 46},
		{"unknown and tolerated", soft, nil, false, false, "", 0},
		{"unknown and tolerated by the rule", hard, &soft, false, false, "", 0},
		{"unknown and not tolerated by the rule", soft, &hard, false, false, muster.CodeStatusUnknown, 46},
		{"revoked and not asked after by the rule", hard, &off, true, true, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			overBoth(t, func(t *testing.T, via transport) {
				b := &border{world: newWorld(t, 1), pki: mustertest.NewPKI(t), one: mustertest.DeviceName(t, 1001)}
				b.instruct("//sp.lab.example/one", b.one, b.pki.Root)
				b.mef.Instructions[len(b.mef.Instructions)-1].Status = tt.rule
				device := b.pki.Enrolee(t, b.one)
				b.mef.Status = &statusConfig{Mode: tt.mode}
				if tt.lists {
					var revoked []*x509.Certificate
					if tt.revoked {
						revoked = append(revoked, device.Leaf())
					}
					b.mef.Status.CRLs = []string{writeList(t, b.pki.Root), writeList(t, b.pki.Intermediate, revoked...)}
				}
				b.startMEF()
				alert, ok := intruder{certificate: device.TLS()}.knock(t, b.world, via)
				if ok != (tt.code == "") || byte(alert) != tt.alert {
					t.Errorf("the handshake succeeds: %v, alert %d", ok, alert)
				}
				if tt.code != "" {
					b.mefLog.await(t, tt.code)
					b.nothingStored()
				}
			})
		})
	}
}

// TestMAFAsksAfterItsMEF has a MAF that refuses a MEF which is revoked, or whose
// status it has no means to learn.
func TestMAFAsksAfterItsMEF(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(w *world){
		"no means to learn it": func(w *world) { w.maf.Status = &statusConfig{} },
		"no list for it":       func(w *world) { w.maf.Status.CRLs = []string{w.lab.path("pki", "device-root-crl.pem")} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			change(w)
			w.maf.Handshake.Timeout = 2 * time.Second
			w.startMEF()
			w.startMAF()
			config := w.deviceConfig(0, overTLS)
			config.Handshake.Timeout = 2 * time.Second
			if attachment, err := w.device(config).Ensure(t.Context()); err == nil {
				t.Errorf("the device attached: %v", attachment.Close())
			}
			w.mafLog.await(t, muster.CodeMEFUnreachable)
		})
	}
}
