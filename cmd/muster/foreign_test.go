package main

import (
	"encoding/hex"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"muster"
	"muster/enrolee"
	"muster/mustertest"
)

// What foreign programs print of an export of 48 octets.
const (
	opensslExport = `Keying material: ([0-9A-F]{96})`
	gnutlsExport  = `- Key material: ([0-9a-f]{96})`
	mbedTLSExport = `EXPORT ([0-9a-f]{96})`
)

// split48 is the Enrolment Key and KeID in what a foreign program exported.
func split48(t testing.TB, printed string, from muster.FQDN) (muster.Ke, muster.KeID) {
	t.Helper()
	octets, err := hex.DecodeString(printed)
	must(t, err)
	ke, err := muster.NewKe(octets[muster.RelativeSize:])
	must(t, err)
	return ke, muster.NewKeID([muster.RelativeSize]byte(octets), from)
}

// deviceFiles are the leaf, the whole chain and the key of a device, and the root
// of its MEF.
func (w *world) deviceFiles(n int) (chain, key, root string) {
	config := w.deviceConfig(n, overTLS)
	return config.Identity.Certificate, config.Identity.Key, config.MEF.Anchors[0]
}

// enrolledBy holds the MEF to what a foreign Enrolee exported: the same KeID and
// Ke are stored for the right Enrolee. It returns the Km that the Enrolee would derive.
func (w *world) enrolledBy(t testing.TB, n int, printed string) (muster.KeID, muster.Km) {
	t.Helper()
	ke, keID := split48(t, printed, w.mef.FQDN)
	stored := w.ledger.awaitEnrolment(t, keID)
	if id := w.deviceConfig(n, overTLS).EnroleeID; stored.EnroleeID != id || !stored.Ke.Equal(ke) {
		t.Fatalf("the MEF stored another key, or for %s in place of %s", stored.EnroleeID, id)
	}
	km, err := ke.MasterCredential(muster.ProfileMasterCredential, w.maf.FQDN)
	must(t, err)
	return keID, km
}

// attachedBy holds the MAF to a session under the KeID of a foreign Enrolee.
func (w *world) attachedBy(t testing.TB, n int, keID muster.KeID, km muster.Km) {
	t.Helper()
	held := w.ledger.awaitAttachment(t, keID.String())
	if id := w.deviceConfig(n, overTLS).EnroleeID; held.EnroleeID != id || held.KeID != keID || !held.Km.Equal(km) {
		t.Errorf("the MAF holds %s for %s, not %s for %s", held.KeID, held.EnroleeID, keID, id)
	}
}

// A foreignClient is a program that can play the Enrolee's two handshakes.
type foreignClient struct {
	enrol  func(w *world, n int) (exported string)
	attach func(w *world, keID muster.KeID, km muster.Km)
}

// bootstrap is the whole of TS-0003 8.3.2.2 up to the MAF Handshake, with a
// foreign Enrolee.
func bootstrap(t *testing.T, c foreignClient) {
	t.Parallel()
	w := newRunningWorld(t, 1)
	keID, km := w.enrolledBy(t, 0, c.enrol(w, 0))
	c.attach(w, keID, km)
	w.attachedBy(t, 0, keID, km)
	if rows := w.count(w.mef.Store, "enrolment"); rows != 1 {
		t.Errorf("the MEF has %d enrolments", rows)
	}
}

// openssl enrols with s_client over a transport in one suite, and attaches in another.
func openssl(t *testing.T, via transport, suite, pskSuite string) foreignClient {
	return foreignClient{
		enrol: func(w *world, n int) string {
			chain, key, root := w.deviceFiles(n)
			version := map[transport]string{overTLS: "-tls1_2", overDTLS: "-dtls1_2"}[via]
			return mustertest.StartPeer(t, "openssl", "s_client", version, "-connect", w.deviceConfig(n, via).MEF.Address,
				"-servername", w.mef.FQDN.String(), "-verify_hostname", w.mef.FQDN.String(),
				"-CAfile", root, "-verify_return_error", "-cert", chain, "-key", key, "-cert_chain", chain,
				"-cipher", suite+":@SECLEVEL=0", "-keymatexport", bootstrapLabel, "-keymatexportlen", "48",
			).Find(t, opensslExport)
		},
		attach: func(w *world, keID muster.KeID, km muster.Km) {
			mustertest.StartPeer(t, "openssl", "s_client", "-dtls1_2", "-connect", w.mafAddress, "-servername", w.maf.FQDN.String(),
				"-psk", hex.EncodeToString(km.Reveal()), "-psk_identity", keID.String(), "-cipher", pskSuite+":@SECLEVEL=0",
			).Find(t, "Cipher +: "+pskSuite)
		},
	}
}

func TestOpenSSLEnrolsAndAttaches(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		via         transport
		suite       string
		pskSuite    string
		description string
	}{
		{overTLS, "ECDHE-ECDSA-AES128-SHA256", "PSK-AES128-CCM8", "0xC023 over TLS, 0xC0A8"},
		{overTLS, "ECDHE-ECDSA-AES128-GCM-SHA256", "PSK-AES128-GCM-SHA256", "0xC02B over TLS, 0x00A8"},
		{overDTLS, "ECDHE-ECDSA-AES128-GCM-SHA256", "PSK-AES128-GCM-SHA256", "0xC02B over DTLS, 0x00A8"},
		{overDTLS, "ECDHE-ECDSA-AES128-CCM8", "PSK-AES128-CCM8", "0xC0AE over DTLS, 0xC0A8"},
	} {
		t.Run(tt.description, func(t *testing.T) { bootstrap(t, openssl(t, tt.via, tt.suite, tt.pskSuite)) })
	}
}

// gnutlsPriority is what all suites of the profile have in common, in GnuTLS's
// words, between the version and the key exchange.
const gnutlsPriority = ":+SHA256:+AEAD:+SIGN-ALL:+GROUP-SECP256R1:+COMP-NULL:+CTYPE-X509:+"

// gnutls enrols with gnutls-cli over a transport in one cipher, and attaches with a key.
func gnutls(t *testing.T, via transport, cipher, pskCipher string) foreignClient {
	client := func(address string, name muster.FQDN, priority string, more ...string) *mustertest.Peer {
		host, port := split(t, address)
		return mustertest.StartPeer(t, "gnutls-cli", append(more, "--port", port, "--sni-hostname", name.String(), "--verify-hostname", name.String(),
			"--priority", priority, "--keymatexport", bootstrapLabel, "--keymatexportsize", "48", host)...)
	}
	return foreignClient{
		enrol: func(w *world, n int) string {
			chain, key, root := w.deviceFiles(n)
			args, version := []string{"--x509certfile", chain, "--x509keyfile", key, "--x509cafile", root}, "NONE:+VERS-TLS1.2"
			if via == overDTLS {
				args, version = append(args, "--udp"), "NONE:+VERS-DTLS1.2"
			}
			return client(w.deviceConfig(n, via).MEF.Address, w.mef.FQDN, version+gnutlsPriority+"ECDHE-ECDSA:+"+cipher, args...).Find(t, gnutlsExport)
		},
		attach: func(w *world, keID muster.KeID, km muster.Km) {
			client(w.mafAddress, w.maf.FQDN, "NONE:+VERS-DTLS1.2"+gnutlsPriority+"PSK:+"+pskCipher,
				"--udp", "--pskusername", keID.String(), "--pskkey", hex.EncodeToString(km.Reveal())).Find(t, gnutlsExport)
		},
	}
}

func TestGnuTLSEnrolsAndAttaches(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		via               transport
		cipher, pskCipher string
	}{
		{overTLS, "AES-128-CBC", "AES-128-CCM-8"},
		{overTLS, "AES-128-GCM", "AES-128-GCM"},
		{overDTLS, "AES-128-GCM", "AES-128-GCM"},
		{overDTLS, "AES-128-CCM-8", "AES-128-CCM-8"},
	} {
		t.Run(tt.cipher+" over "+string(tt.via), func(t *testing.T) { bootstrap(t, gnutls(t, tt.via, tt.cipher, tt.pskCipher)) })
	}
}

// mbedTLS compiles a peer.
func mbedTLS(t *testing.T, source string) string {
	t.Helper()
	return mustertest.CompilePeer(t, source, "mbedtls", "mbedx509", "mbedcrypto")
}

func TestMbedTLSEnrolsAndAttaches(t *testing.T) {
	binary := mbedTLS(t, filepath.Join("..", "..", "handshake", "testdata", "mbedtls_client.c"))
	const libraryMTU = "0"
	bootstrap(t, foreignClient{
		enrol: func(w *world, n int) string {
			chain, key, root := w.deviceFiles(n)
			_, port := split(t, w.mefAddresses.DTLS)
			return mustertest.StartPeer(t, binary, port, w.mef.FQDN.String(), libraryMTU, "cert", chain, key, root).Find(t, mbedTLSExport)
		},
		attach: func(w *world, keID muster.KeID, km muster.Km) {
			_, port := split(t, w.mafAddress)
			mustertest.StartPeer(t, binary, port, w.maf.FQDN.String(), libraryMTU, "psk", keID.String(), hex.EncodeToString(km.Reveal())).Find(t, mbedTLSExport)
		},
	})
}

// TestOpenSSLEnrolsWithItsLeafAlone has a client that sends no intermediates, as
// many do, and a MEF that is configured with them.
func TestOpenSSLEnrolsWithItsLeafAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	chain, key, root := w.deviceFiles(0)
	w.mef.Intermediates = []string{chain} // the leaf in it does no harm
	w.startMEF()
	exported := mustertest.StartPeer(t, "openssl", "s_client", "-tls1_2", "-connect", w.mefAddresses.TLS, "-servername", w.mef.FQDN.String(),
		"-CAfile", root, "-cert", chain, "-key", key, "-keymatexport", bootstrapLabel, "-keymatexportlen", "48").Find(t, opensslExport)
	w.enrolledBy(t, 0, exported)
}

// enrolsAt enrols our Enrolee at a foreign MEF, which serves no base resource.
func (w *world) enrolsAt(t testing.TB, via transport, address string) enrolee.Credential {
	t.Helper()
	config := w.deviceConfig(0, via)
	config.MEF.Address, config.Unconfirmed = address, true
	credential, err := w.device(config).Enrol(t.Context())
	must(t, err)
	return credential
}

// sameCredential compares our Enrolee's credential with what its foreign MEF exported.
func (w *world) sameCredential(t testing.TB, c enrolee.Credential, printed string) {
	t.Helper()
	ke, keID := split48(t, printed, w.mef.FQDN)
	km, err := ke.MasterCredential(muster.ProfileMasterCredential, w.maf.FQDN)
	must(t, err)
	if c.KeID != keID || !c.Km.Equal(km) {
		t.Errorf("the Enrolee has %s, the MEF %s, or the keys differ", c.KeID, keID)
	}
}

func TestEnroleeEnrolsAtOpenSSL(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		via   transport
		suite string
		args  []string
	}{
		{overTLS, "ECDHE-ECDSA-AES128-SHA256", []string{"-tls1_2"}},
		{overTLS, "ECDHE-ECDSA-AES128-GCM-SHA256", []string{"-tls1_2"}},
		{overDTLS, "ECDHE-ECDSA-AES128-GCM-SHA256", []string{"-dtls1_2"}},
		{overDTLS, "ECDHE-ECDSA-AES128-CCM8", []string{"-dtls1_2", "-listen"}},
	} {
		t.Run(tt.suite+" over "+string(tt.via), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			identity := w.mef.Identity
			server := mustertest.StartPeer(t, "openssl", append([]string{"s_server", "-accept", "127.0.0.1:0", "-naccept", "1",
				"-cert", identity.Certificate, "-key", identity.Key, "-CAfile", w.mef.Instructions[0].Anchors[0],
				"-Verify", "3", "-verify_return_error", "-cipher", tt.suite + ":@SECLEVEL=0",
				"-keymatexport", bootstrapLabel, "-keymatexportlen", "48"}, tt.args...)...)
			credential := w.enrolsAt(t, tt.via, server.Find(t, `ACCEPT (127\.0\.0\.1:\d+)`))
			w.sameCredential(t, credential, server.Find(t, opensslExport))
		})
	}
}

// gnutlsServer starts gnutls-serv, which cannot choose a port, and returns its address.
func gnutlsServer(t *testing.T, args ...string) (*mustertest.Peer, string) {
	t.Helper()
	for range 5 {
		socket, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		_, port := split(t, socket.Addr().String())
		_ = socket.Close()
		server := mustertest.StartPeer(t, "gnutls-serv", append(args, "--port", port)...)
		free := await(t, "gnutls-serv does not start", func() (listens bool, done bool) {
			select {
			case <-server.Ended:
				return false, true
			default:
				listens = strings.Contains(server.String(), "IPv4 0.0.0.0 port "+port+"...done")
				return listens, listens
			}
		})
		if free {
			return server, net.JoinHostPort("127.0.0.1", port)
		}
	}
	t.Fatal("gnutls-serv found no port")
	return nil, ""
}

// TestEnroleeEnrolsAtGnuTLS is over TLS alone: over DTLS gnutls-serv prints no export.
func TestEnroleeEnrolsAtGnuTLS(t *testing.T) {
	t.Parallel()
	for _, cipher := range []string{"AES-128-CBC", "AES-128-GCM"} {
		t.Run(cipher, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			server, address := gnutlsServer(t, "--priority", "NONE:+VERS-TLS1.2"+gnutlsPriority+"ECDHE-ECDSA:+"+cipher, "--noticket",
				"--x509certfile", w.mef.Identity.Certificate, "--x509keyfile", w.mef.Identity.Key,
				"--x509cafile", w.mef.Instructions[0].Anchors[0], "--require-client-cert", "--verify-client-cert",
				"--keymatexport", bootstrapLabel, "--keymatexportsize", "48")
			credential := w.enrolsAt(t, overTLS, address)
			w.sameCredential(t, credential, server.Find(t, gnutlsExport))
		})
	}
}

func TestEnroleeEnrolsAtMbedTLS(t *testing.T) {
	t.Parallel()
	binary := mbedTLS(t, filepath.Join("testdata", "mbedtls_server.c"))
	w := newWorld(t, 1)
	server := mustertest.StartPeer(t, binary, w.mef.Identity.Certificate, w.mef.Identity.Key, w.mef.Instructions[0].Anchors[0])
	credential := w.enrolsAt(t, overTLS, net.JoinHostPort("127.0.0.1", server.Find(t, `PORT (\d+)`)))
	w.sameCredential(t, credential, server.Find(t, mbedTLSExport))
}
