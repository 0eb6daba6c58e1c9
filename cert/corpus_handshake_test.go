package cert_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"testing"
	"time"

	"muster"
	"muster/cert"
	"muster/handshake"
	"muster/handshake/dtls12"
	"muster/mustertest"
)

// patience bounds what is expected to happen at once.
const patience = 60 * time.Second

// A carrier brings a presenter and a judge through a handshake and returns what
// the judge says.
type carrier func(t *testing.T, presenter, judge *party) error

// A party is one side of a handshake.
type party struct {
	identity tls.Certificate
	verify   handshake.Verify
}

// TestCorpusInHandshakes has every chain presented by a client and by a server,
// over TLS and over DTLS. The codes are those that Verify finds on its own.
func TestCorpusInHandshakes(t *testing.T) {
	t.Parallel()
	chains := mustertest.ReadChains(t, corpusFolder)
	judgesOwn := mustertest.NewPKI(t).Function(t, "judge.example").TLS()
	carried := map[string]int{}
	for _, way := range []struct {
		name  string
		carry carrier
		dtls  bool
	}{
		{"TLS client", tlsClient, false}, {"TLS server", tlsServer, false}, {"DTLS client", dtlsClient, true}, {"DTLS server", dtlsServer, true},
	} {
		for _, chain := range chains {
			if !carriable(chain, way.dtls) {
				continue
			}
			carried[way.name]++
			t.Run(way.name+"/"+chain.Slug, func(t *testing.T) {
				t.Parallel()
				presenter := &party{
					identity: tls.Certificate{Certificate: chain.Sends, PrivateKey: chain.Key},
					verify:   func([]*x509.Certificate) (muster.Peer, error) { return muster.Peer{}, nil },
				}
				judge := &party{identity: judgesOwn, verify: func(presented []*x509.Certificate) (muster.Peer, error) {
					peer, findings := cert.Verify(presented, chain.Trust, chain.Time)
					return peer, findings.Err()
				}}
				want := []muster.Code{chain.Expect}
				if !parses(chain) {
					// crypto/tls refuses before it asks.
					want = append(want, muster.CodeHandshakeFailed)
				}
				if err := way.carry(t, presenter, judge); !slices.Contains(want, muster.CodeOf(err)) || (err == nil) != (chain.Expect == "") {
					t.Errorf("%s: %v, want %q", chain.About, err, want)
				}
			})
		}
	}
	for way, n := range carried {
		if n < minChains {
			t.Errorf("%s carries %d chains, fewer than %d", way, n, minChains)
		}
	}
}

// carriable reports whether a transport can present a chain: its leaf has a key
// that the suites of TS-0003 10.2 sign with. pion signs with Ed25519, but does not
// take such a key for one of its suites.
func carriable(chain mustertest.Chain, overDTLS bool) bool {
	switch key := chain.Key.(type) {
	case *ecdsa.PrivateKey:
		return key.Curve.Params().BitSize != 224 // no signature scheme has it
	case ed25519.PrivateKey:
		return !overDTLS
	default:
		return false
	}
}

func parses(chain mustertest.Chain) bool {
	return !slices.ContainsFunc(chain.Sends, func(der []byte) bool {
		_, err := x509.ParseCertificate(der)
		return err != nil
	})
}

func judgeName(t *testing.T) muster.FQDN {
	t.Helper()
	name, err := muster.ParseFQDN("judge.example")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func (p *party) tls(t *testing.T) handshake.Config {
	return handshake.Config{Name: judgeName(t), Identity: func() (*tls.Certificate, error) { return &p.identity, nil }, Verify: p.verify, Timeout: patience}
}

func (p *party) dtls(t *testing.T) dtls12.Config {
	return dtls12.Config{Name: judgeName(t), Identity: func() (*tls.Certificate, error) { return &p.identity, nil }, Verify: p.verify,
		Timeout: patience, CookieTimeout: patience}
}

// ends runs both sides and returns what each says. When one fails, hangUp ends
// what the other still waits for.
func ends(t *testing.T, hangUp func(), client, server func(ctx context.Context) (*handshake.Conn, error)) (atClient, atServer error) {
	t.Helper()
	defer hangUp()
	result := make(chan error, 1)
	run := func(side func(ctx context.Context) (*handshake.Conn, error)) error {
		_, err := side(t.Context())
		if err != nil {
			hangUp()
		}
		return err
	}
	go func() { result <- run(server) }()
	atClient = run(client)
	return atClient, <-result
}

// A queued end of a pipe does not wait for the reader, or two sides that write at
// the same time would wait for each other.
type queued struct {
	net.Conn
	records chan []byte
}

func newQueued(t *testing.T, conn net.Conn) *queued {
	q := &queued{conn, make(chan []byte, 64)}
	go func() {
		for {
			select {
			case record := <-q.records:
				_, _ = q.Conn.Write(record)
			case <-t.Context().Done():
				return
			}
		}
	}()
	return q
}

func (q *queued) Write(record []byte) (int, error) {
	q.records <- slices.Clone(record)
	return len(record), nil
}

func overTLS(t *testing.T, client, server *party) (atClient, atServer error) {
	t.Helper()
	c, err := handshake.NewClient(client.tls(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := handshake.NewServer(server.tls(t))
	if err != nil {
		t.Fatal(err)
	}
	left, right := net.Pipe()
	near, far := newQueued(t, left), newQueued(t, right)
	hangUp := func() { _, _ = left.Close(), right.Close() }
	return ends(t, hangUp,
		func(ctx context.Context) (*handshake.Conn, error) { return c.Handshake(ctx, near) },
		func(ctx context.Context) (*handshake.Conn, error) { return s.Handshake(ctx, far) })
}

func overDTLS(t *testing.T, client, server *party) (atClient, atServer error) {
	t.Helper()
	c, err := dtls12.NewClient(client.dtls(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := dtls12.NewServer(server.dtls(t))
	if err != nil {
		t.Fatal(err)
	}
	near, far := mustertest.NewLossyPair(mustertest.Loss{})
	hangUp := func() { _, _ = near.Close(), far.Close() }
	return ends(t, hangUp,
		func(ctx context.Context) (*handshake.Conn, error) { return c.Handshake(ctx, near, far.LocalAddr()) },
		func(ctx context.Context) (*handshake.Conn, error) { return s.Handshake(ctx, far, near.LocalAddr()) })
}

func tlsClient(t *testing.T, presenter, judge *party) error {
	_, err := overTLS(t, presenter, judge)
	return err
}

func tlsServer(t *testing.T, presenter, judge *party) error {
	err, _ := overTLS(t, judge, presenter)
	return err
}

func dtlsClient(t *testing.T, presenter, judge *party) error {
	_, err := overDTLS(t, presenter, judge)
	return err
}

func dtlsServer(t *testing.T, presenter, judge *party) error {
	err, _ := overDTLS(t, judge, presenter)
	return err
}
