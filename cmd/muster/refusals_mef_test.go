package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pion/dtls/v3"

	"muster"
	"muster/enrolee"
	"muster/mustertest"
)

// overBoth runs a test once over TLS and once over DTLS.
func overBoth(t *testing.T, run func(t *testing.T, via transport)) {
	t.Helper()
	for _, via := range []transport{overTLS, overDTLS} {
		t.Run(string(via), func(t *testing.T) {
			t.Parallel()
			run(t, via)
		})
	}
}

// refused holds the MEF to its refusal of an intruder: the alert on the wire, the
// code in the log, and nothing stored.
func (b *border) refused(t *testing.T, via transport, i intruder, code muster.Code, alert tls.AlertError) {
	t.Helper()
	read, ok := i.knock(t, b.world, via)
	if ok {
		t.Fatal("the handshake succeeded")
	}
	if read != alert {
		t.Errorf("the alert is %d, not %d", read, alert)
	}
	b.mefLog.await(t, code)
	if b.mefLog.says("enrolled") {
		t.Errorf("the log tells of an enrolment:\n%s", b.mefLog)
	}
	b.nothingStored()
}

// TestMEFEnrolsBothEnrolees shows that what the tests below refuse is refused for
// its flaw: without one, both Enrolees come in.
func TestMEFEnrolsBothEnrolees(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, via transport) {
		b := newBorder(t)
		one := b.pki.Enrolee(t, b.one)
		another := b.pki.NewLeaf(t, b.pki.OtherIntermediate, []muster.CertName{b.another}, nil)
		for _, identity := range []*mustertest.Identity{one, another} {
			if alert, ok := (intruder{certificate: identity.TLS()}).knock(t, b.world, via); !ok {
				t.Errorf("refused with alert %d:\n%s", alert, b.mefLog)
			}
		}
		await(t, "the MEF does not store two enrolments", func() (int, bool) {
			n := len(b.ledger.enrolments())
			return n, n == 2
		})
		if rows := b.count(b.mef.Store, "enrolment"); rows != 2 {
			t.Errorf("the MEF has %d rows", rows)
		}
	})
}

func TestMEFRefusesNoCertificate(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, via transport) {
		newBorder(t).refused(t, via, intruder{}, muster.CodeNoCertificate, 40)
	})
}

// TestMEFRefusesCertificates has each certificate that proves less than the
// instruction asks for, or something else.
func TestMEFRefusesCertificates(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		flaw  func(t *testing.T, b *border) *mustertest.Identity
		code  muster.Code
		alert tls.AlertError
	}{
		{"a wrong name", func(t *testing.T, b *border) *mustertest.Identity {
			return b.pki.Enrolee(t, mustertest.DeviceName(t, 9999))
		}, muster.CodeNameUnknown, 46},
		{"a wrong root", func(t *testing.T, b *border) *mustertest.Identity {
			return b.pki.NewLeaf(t, b.strangers, []muster.CertName{b.one}, nil)
		}, muster.CodeAnchorMismatch, 48},
		{"the right name under another Enrolee's root", func(t *testing.T, b *border) *mustertest.Identity {
			return b.pki.NewLeaf(t, b.pki.OtherIntermediate, []muster.CertName{b.one}, nil)
		}, muster.CodeAnchorMismatch, 48},
		{"the name only in CN", func(t *testing.T, b *border) *mustertest.Identity {
			return b.pki.Enrolee(t, b.one, mustertest.CommonNameOnly(b.one.Text))
		}, muster.CodeNameOnlyInCN, 42},
		{"a wildcard", func(t *testing.T, b *border) *mustertest.Identity {
			return b.pki.Enrolee(t, b.one, mustertest.Domains("*.lab.example"))
		}, muster.CodeNameWildcard, 42},
		{"expired", func(t *testing.T, b *border) *mustertest.Identity {
			return b.pki.Enrolee(t, b.one, mustertest.Expired())
		}, muster.CodeExpired, 45},
		{"not yet valid", func(t *testing.T, b *border) *mustertest.Identity {
			return b.pki.Enrolee(t, b.one, mustertest.NotYetValid())
		}, muster.CodeNotYetValid, 45},
		{"an extended key usage for servers alone", func(t *testing.T, b *border) *mustertest.Identity {
			return b.pki.Enrolee(t, b.one, mustertest.ExtKeyUsage(x509.ExtKeyUsageServerAuth))
		}, muster.CodeExtendedKeyUsage, 43},
		{"a CA as leaf", func(t *testing.T, b *border) *mustertest.Identity {
			return b.pki.Enrolee(t, b.one, mustertest.AsAuthority())
		}, muster.CodeCAAsLeaf, 43},
		{"a chain over the cap", func(t *testing.T, b *border) *mustertest.Identity {
			issuer := b.pki.Root
			for range 5 {
				issuer = b.pki.NewIntermediate(t, issuer, "Deep", mustertest.PathLength(-1))
			}
			return b.pki.NewLeaf(t, issuer, []muster.CertName{b.one}, nil)
		}, muster.CodeChainTooLong, 42},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			overBoth(t, func(t *testing.T, via transport) {
				b := newBorder(t)
				b.refused(t, via, intruder{certificate: tt.flaw(t, b).TLS()}, tt.code, tt.alert)
			})
		})
	}
}

// TestMEFAcceptsAChainAtTheCap has one intermediate less than is refused above.
func TestMEFAcceptsAChainAtTheCap(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, via transport) {
		b := newBorder(t)
		issuer := b.pki.Root
		for range 4 {
			issuer = b.pki.NewIntermediate(t, issuer, "Deep", mustertest.PathLength(-1))
		}
		identity := b.pki.NewLeaf(t, issuer, []muster.CertName{b.one}, nil)
		if alert, ok := (intruder{certificate: identity.TLS()}).knock(t, b.world, via); !ok {
			t.Errorf("refused with alert %d:\n%s", alert, b.mefLog)
		}
	})
}

func TestMEFRefusesNoExtendedMasterSecret(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, via transport) {
		b := newBorder(t)
		b.refused(t, via, intruder{
			certificate: b.pki.Enrolee(t, b.one).TLS(), editTLS: withoutEMS,
			overDTLS: []dtls.ClientOption{dtls.WithExtendedMasterSecret(dtls.DisableExtendedMasterSecret)},
		}, muster.CodeNoExtendedMasterSecret, 40)
	})
}

func TestMEFRefusesAnOldVersion(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, via transport) {
		b := newBorder(t)
		b.refused(t, via, intruder{
			certificate: b.pki.Enrolee(t, b.one).TLS(),
			overTLS:     func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			editDTLS:    asDTLS10,
		}, muster.CodeProtocolVersion, 70)
	})
}

func TestMEFRefusesAnotherServerName(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, via transport) {
		b := newBorder(t)
		b.refused(t, via, intruder{
			certificate: b.pki.Enrolee(t, b.one).TLS(),
			overTLS:     func(c *tls.Config) { c.ServerName = labMAF },
			overDTLS:    []dtls.ClientOption{dtls.WithServerName(labMAF)},
		}, muster.CodeServerName, 112)
	})
}

// TestMEFResumesNothing offers a session of another server with the MEF's
// identity, and looks for anything of the MEF's own that could be offered later.
// The MEF makes a full handshake, and so another key.
func TestMEFResumesNothing(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, via transport) {
		w := newWorld(t, 1)
		w.startMEF()
		version := map[transport]string{overTLS: "-tls1_2", overDTLS: "-dtls1_2"}[via]
		chain, key, root := w.deviceFiles(0)
		client := func(address string, more ...string) *mustertest.Peer {
			return mustertest.StartPeer(t, "openssl", append([]string{"s_client", version, "-connect", address, "-servername", labMEF, "-CAfile", root,
				"-cert", chain, "-key", key, "-cert_chain", chain, "-keymatexport", bootstrapLabel, "-keymatexportlen", "48"}, more...)...)
		}
		other := mustertest.StartPeer(t, "openssl", "s_server", version, "-accept", "127.0.0.1:0", "-naccept", "2",
			"-cert", w.mef.Identity.Certificate, "-key", w.mef.Identity.Key, "-CAfile", w.mef.Instructions[0].Anchors[0], "-verify", "3").
			Find(t, `ACCEPT (127\.0\.0\.1:\d+)`)
		ticket, mine := filepath.Join(t.TempDir(), "ticket"), filepath.Join(t.TempDir(), "mine")
		first := client(other, "-sess_out", ticket)
		first.Find(t, opensslExport)
		first.HangUp(t)
		await(t, "there is no ticket to try with", func() (any, bool) {
			info, err := os.Stat(ticket)
			return nil, err == nil && info.Size() > 0
		})
		client(other, "-sess_in", ticket).Find(t, "Reused, TLSv1") // where it can be used, it is

		again := client(w.mefAddresses.TLS, "-sess_in", ticket, "-sess_out", mine)
		if via == overDTLS {
			again = client(w.mefAddresses.DTLS, "-sess_in", ticket, "-sess_out", mine)
		}
		w.enrolledBy(t, 0, again.Find(t, opensslExport))
		again.Find(t, "New, TLSv1")
		if strings.Contains(again.String(), "Reused") || strings.Contains(again.String(), "TLS session ticket:") {
			t.Error("the MEF resumed a session or gave a ticket")
		}
		if _, err := os.Stat(mine); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the MEF gave a session to resume: %v", err)
		}
	})
}

// TestMEFRefusesASecondExport establishes one session twice, which no listener does.
func TestMEFRefusesASecondExport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	store, err := openStore(t.Context(), w.mef.Store)
	must(t, err)
	t.Cleanup(func() { _ = store.Close() })
	function, err := newMEF(w.mef, store, nil)
	must(t, err)
	identity, err := w.deviceConfig(0, overTLS).Identity.load()
	must(t, err)
	peer, err := function.VerifyPeer(parseAll(t, identity), time.Now())
	must(t, err)
	session := muster.NewSession(peer, func(label string, _ []byte, length int) ([]byte, error) {
		octets := sha256.Sum256([]byte(label))
		return append(octets[:], octets[:]...)[:length], nil
	})
	_, err = function.Established(t.Context(), session, time.Now())
	must(t, err)
	_, err = function.Established(t.Context(), session, time.Now())
	wantCode(t, err, muster.CodeAlreadyExported)
	if rows := w.count(w.mef.Store, "enrolment"); rows != 1 {
		t.Errorf("the MEF has %d rows", rows)
	}
}

func parseAll(t testing.TB, identity *tls.Certificate) []*x509.Certificate {
	t.Helper()
	var chain []*x509.Certificate
	for _, der := range identity.Certificate {
		c, err := x509.ParseCertificate(der)
		must(t, err)
		chain = append(chain, c)
	}
	return chain
}

// TestEnroleeRefusesMEFs has a MEF with a certificate that is not what the Enrolee
// was configured with. Neither side keeps anything.
func TestEnroleeRefusesMEFs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		server string // in the MEF's certificate, which the operator's root did not issue
		pinned bool   // the root that issued it is the Enrolee's
		flaws  []mustertest.Flaw
		code   muster.Code
		alert  string // as the MEF's log names it over TLS and DTLS
	}{
		{"a wrong name", "other.lab.example", true, nil, muster.CodeNameMismatch, "bad certificate|BadCertificate"},
		{"a wrong root", labMEF, false, nil, muster.CodeAnchorMismatch, "unknown certificate authority|UnknownCA"},
		{"a wildcard", labMEF, true, []mustertest.Flaw{mustertest.Domains("*.lab.example")}, muster.CodeNameWildcard, "bad certificate|BadCertificate"},
		{"expired", labMEF, true, []mustertest.Flaw{mustertest.Expired()}, muster.CodeExpired, "expired certificate|CertificateExpired"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			overBoth(t, func(t *testing.T, via transport) {
				w, pki := newWorld(t, 1), mustertest.NewPKI(t)
				w.mef.Identity.Certificate, w.mef.Identity.Key = pki.Function(t, tt.server, tt.flaws...).WriteFiles(t)
				w.startMEF()
				config := w.deviceConfig(0, via)
				if tt.pinned {
					config.MEF.Anchors = []string{pki.Root.WriteFile(t)}
				}
				device := w.device(config)
				_, err := device.Enrol(t.Context())
				wantCode(t, err, tt.code)
				entry := w.mefLog.await(t, muster.CodePeerAlert)
				if !regexp.MustCompile(tt.alert).MatchString(entry.Error) {
					t.Errorf("the MEF read another alert: %s", entry.Error)
				}
				w.nothingStored()
				if _, err := device.Attach(context.Background()); !errors.Is(err, enrolee.ErrNotEnrolled) {
					t.Errorf("the Enrolee has a credential: %v", err)
				}
			})
		})
	}
}
