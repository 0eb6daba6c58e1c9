package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/elliptic"

	"muster"
	"muster/enrolee"
	"muster/handshake/dtls12"
	"muster/mef"
	"muster/mustertest"
)

// benchDevices is how many devices take turns, so that none has many enrolments.
const benchDevices = 256

// A core is a MEF without sockets.
type core struct {
	*mef.Function
	chain []*x509.Certificate // of the first device
	peers []muster.Peer
	turn  atomic.Int64
}

func newCore(b *testing.B, w *world, store mefStore) *core {
	b.Helper()
	w.mef.MaxLive = 1 << 30
	function, err := newMEF(w.mef, store, nil)
	must(b, err)
	c := &core{Function: function}
	for n := range benchDevices {
		identity, err := w.deviceConfig(n, overTLS).Identity.load()
		must(b, err)
		chain := parseAll(b, identity)
		peer, err := c.VerifyPeer(chain, time.Now())
		must(b, err)
		if n == 0 {
			c.chain = chain
		}
		c.peers = append(c.peers, peer)
	}
	return c
}

// enrol does what follows a handshake of the next device.
func (c *core) enrol(ctx context.Context) error {
	peer := c.peers[c.turn.Add(1)%benchDevices]
	session := muster.NewSession(peer, func(_ string, _ []byte, length int) ([]byte, error) {
		octets := make([]byte, length)
		_, err := rand.Read(octets)
		return octets, err
	})
	_, err := c.Established(ctx, session, time.Now())
	return err
}

// A forgetful store costs nothing, so that what is left is the function's own work.
type forgetful struct{ mefStore }

func (forgetful) CreateEnrolment(_ context.Context, e mef.Enrolment, _ int) (mef.Enrolment, error) {
	return e, nil
}

// BenchmarkCore is what a MEF adds to a handshake: the judgement of a chain of
// two certificates, and the durable record.
func BenchmarkCore(b *testing.B) {
	w := newWorld(b, benchDevices)
	bare := newCore(b, w, forgetful{mustertest.NewMemory()})
	store, err := openStore(b.Context(), w.mef.Store)
	must(b, err)
	b.Cleanup(func() { _ = store.Close() })
	durable := newCore(b, w, store)

	b.Run("VerifyPeer", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := bare.VerifyPeer(bare.chain, time.Now()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Established, no store", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			must(b, bare.enrol(b.Context()))
		}
	})
	b.Run("Established, sqlite", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			must(b, durable.enrol(b.Context()))
		}
	})
	b.Run("Established, sqlite, 256 at once", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(128)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := durable.enrol(context.Background()); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

// BenchmarkEnrolment makes, in turn, the bare handshake of a library and an
// enrolment by it, both between two sides on loopback, and reports both times and
// their ratio. The enrolment ends when the device knows that the MEF has it on
// disk; the device keeps its own end in memory.
func BenchmarkEnrolment(b *testing.B) {
	for _, via := range []transport{overTLS, overDTLS} {
		b.Run(string(via), func(b *testing.B) {
			w := newWorld(b, benchDevices)
			w.mef.MaxLive = 1 << 30
			service, err := startMEF(b.Context(), w.mef, slog.New(slog.DiscardHandler), observer{})
			must(b, err)
			b.Cleanup(func() { must(b, service.stop()) })
			w.mefAddresses = listenConfig{TLS: service.tls.Addr().String(), DTLS: service.dtls.Addr().String()}
			var devices []*enrolee.Enrolee
			for n := range benchDevices {
				devices = append(devices, w.diskless(n, via))
			}
			bare := w.bareTLS(b)
			if via == overDTLS {
				bare = w.bareDTLS(b)
			}
			var handshakes, enrolments time.Duration
			for n := 0; b.Loop(); n++ {
				begun := time.Now()
				must(b, bare(b.Context()))
				between := time.Now()
				if _, err := devices[n%benchDevices].Enrol(b.Context()); err != nil {
					b.Fatal(err)
				}
				handshakes += between.Sub(begun)
				enrolments += time.Since(between)
			}
			b.ReportMetric(0, "ns/op") // the sum of both says nothing
			b.ReportMetric(float64(handshakes.Nanoseconds())/float64(b.N), "ns/handshake")
			b.ReportMetric(float64(enrolments.Nanoseconds())/float64(b.N), "ns/enrolment")
			b.ReportMetric(float64(enrolments)/float64(handshakes), "enrolment/handshake")
		})
	}
}

// diskless is a device whose keyring is in memory.
func (w *world) diskless(n int, via transport) *enrolee.Enrolee {
	w.t.Helper()
	c := w.deviceConfig(n, via)
	device, err := enrolee.New(enrolee.Config{
		EnroleeID: c.EnroleeID, MEF: c.MEF.FQDN, MAF: c.MAF.FQDN, AdminFQDN: c.AdminFQDN, Derivation: c.Derivation,
		Wire: newWire(w.t), Now: time.Now, Sleep: sleep, Rand: func() float64 { return 0.5 },
	}, w.dialer(c), new(memoryKeyring))
	must(w.t, err)
	return device
}

// roots are the identities of MEF and first device, and a pool of both roots.
func (w *world) roots(b *testing.B) (server, client *tls.Certificate, pool *x509.CertPool) {
	b.Helper()
	server, err := w.mef.Identity.load()
	must(b, err)
	client, err = w.deviceConfig(0, overTLS).Identity.load()
	must(b, err)
	roots, err := readCertificates([]string{w.lab.path("pki", "operator-root.pem"), w.lab.path("pki", "device-root.pem")})
	must(b, err)
	pool = x509.NewCertPool()
	for _, root := range roots {
		pool.AddCert(root)
	}
	return server, client, pool
}

// bareTLS is a handshake of crypto/tls with certificates on both sides and one export.
func (w *world) bareTLS(b *testing.B) func(context.Context) error {
	server, client, pool := w.roots(b)
	config := tls.Config{
		MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, CurvePreferences: []tls.CurveID{tls.CurveP256},
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, SessionTicketsDisabled: true,
	}
	atServer, atClient := config.Clone(), config.Clone()
	atServer.Certificates, atServer.ClientCAs, atServer.ClientAuth = []tls.Certificate{*server}, pool, tls.RequireAndVerifyClientCert
	atClient.Certificates, atClient.RootCAs, atClient.ServerName = []tls.Certificate{*client}, pool, labMEF
	listener, err := tls.Listen("tcp", "127.0.0.1:0", atServer)
	must(b, err)
	b.Cleanup(func() { _ = listener.Close() })
	ended := make(chan error, 1)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			ended <- finishTLS(context.Background(), conn.(*tls.Conn))
		}
	}()
	return func(ctx context.Context) error {
		socket, err := new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
		if err != nil {
			return err
		}
		if err := finishTLS(ctx, tls.Client(socket, atClient)); err != nil {
			return err
		}
		return <-ended
	}
}

func finishTLS(ctx context.Context, conn *tls.Conn) error {
	defer func() { _ = conn.Close() }()
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	state := conn.ConnectionState()
	_, err := state.ExportKeyingMaterial(bootstrapLabel, nil, muster.RelativeSize+muster.KeySize)
	return err
}

// bareDTLS is the same of pion/dtls.
func (w *world) bareDTLS(b *testing.B) func(context.Context) error {
	server, client, pool := w.roots(b)
	listener, err := dtls12.Listen("127.0.0.1:0", dtls12.Limits{})
	must(b, err)
	b.Cleanup(func() { _ = listener.Close() })
	common := []dtls.Option{
		dtls.WithCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM), dtls.WithEllipticCurves(elliptic.P256),
		dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret), dtls.WithMTU(1000),
	}
	atServer := []dtls.ServerOption{dtls.WithCertificates(*server), dtls.WithClientCAs(pool), dtls.WithClientAuth(dtls.RequireAndVerifyClientCert)}
	atClient := []dtls.ClientOption{dtls.WithCertificates(*client), dtls.WithRootCAs(pool), dtls.WithServerName(labMEF)}
	for _, option := range common {
		atServer, atClient = append(atServer, option), append(atClient, option)
	}
	served := make(chan error, 1)
	release := make(chan struct{}) // a close_notify must not overtake the other's success
	go func() {
		for {
			conn, peer, err := listener.Accept()
			if err != nil {
				return
			}
			engine, err := dtls.ServerWithOptions(conn, peer, atServer...)
			if err == nil {
				err = exportDTLS(context.Background(), engine)
			}
			served <- err
			<-release
			_ = engine.Close()
		}
	}()
	return func(ctx context.Context) error {
		to, err := net.ResolveUDPAddr("udp", listener.Addr().String())
		if err != nil {
			return err
		}
		socket, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		conn, err := dtls.ClientWithOptions(socket, to, atClient...)
		if err != nil {
			return err
		}
		if err := exportDTLS(ctx, conn); err != nil {
			return err
		}
		err = <-served
		_ = conn.Close()
		release <- struct{}{}
		return err
	}
}

func exportDTLS(ctx context.Context, conn *dtls.Conn) error {
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	state, ok := conn.ConnectionState()
	if !ok {
		return fmt.Errorf("the connection has no state")
	}
	_, err := state.ExportKeyingMaterial(bootstrapLabel, nil, muster.RelativeSize+muster.KeySize)
	return err
}
