package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"muster"
	"muster/enrolee"
	"muster/entity"
	"muster/handshake"
	"muster/handshake/dtls12"
	"muster/tef"
)

// labEntity is the server name of the second device, as an entity that others
// open sessions with.
const labEntity = "entity-b.lab.example"

// A teller tells a step of the demo.
type teller func(format string, args ...any)

// shareKey is the demo's second act, TS-0003 8.8: the first device registers a key
// at the MAF for entity B, one more device, and opens a session with it under that
// key, which B retrieves from the MAF within the handshake. It fails unless both
// ends agree on the key, on each other and on the session.
func (d *demo) shareKey(ctx context.Context, lab *laboratory, addresses demoAddresses, tell teller) error {
	a, err := d.device(lab, 0, addresses, overTLS)
	if err != nil {
		return err
	}
	defer func() { _ = a.close() }()
	b, err := d.device(lab, d.devices, addresses, overTLS)
	if err != nil {
		return err
	}
	defer func() { _ = b.close() }()

	tell("\nSecond act. A key from entity to entity, through the MAF: A is %s, B is %s.\n", a.config.EnroleeID, b.config.EnroleeID)
	tell("1. B enrols and attaches to the MAF as A has done, and listens for sessions of its own.")
	keys := enrolee.NewKeys(b.Enrolee)
	defer func() { _ = keys.Close() }()
	listening, err := newDemoEntity(ctx, b.config, keys)
	if err != nil {
		return err
	}
	defer func() { _ = listening.listener.Close() }()

	tell("2. MAF Handshake: A opens a session with the MAF with psk_identity = KmID, psk = Km.")
	attachment, err := a.Attach(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = attachment.Close() }()
	key, err := attachment.RegisterKey(ctx, tef.KeyRegistration{Usage: tef.SUIDMAFForSAEF, Targets: []string{b.config.EnroleeID.String()}})
	if err != nil {
		return err
	}
	tell("3. MAF Key Registration for the target B, SUID %s. A and the MAF exported Kc from their session; it did not cross the wire.", key.Usage)
	tell("   KcID   %s", key.ID)
	tell("4. A opens DTLS to B at %s: psk_identity = the key identifier, psk = Kc.", listening.listener.Addr())
	if err := listening.meet(ctx, a.config.EnroleeID, key); err != nil {
		return err
	}
	tell("   B did not know the key identifier. Inside this handshake it retrieved Kc from the MAF, of which it is the target.")
	tell("5. A and B hold the same Kc and KcID, and B knows from the MAF that it is A's. They talk.")
	return nil
}

// A demoEntity is entity B on its socket.
type demoEntity struct {
	*entity.Entity
	name     muster.FQDN
	listener *dtls12.Listener
	server   *dtls12.Server
}

func newDemoEntity(ctx context.Context, config *enroleeConfig, keys *enrolee.Keys) (*demoEntity, error) {
	name, err := muster.ParseFQDN(labEntity)
	if err != nil {
		return nil, err
	}
	e, err := entity.New(entity.Config{
		MAFs: []muster.FQDN{config.MAF.FQDN}, Usage: tef.SUIDMAFForSAEF,
		Timeout: config.Handshake.Timeout, RefusalMemory: 30 * time.Second, MaxKeys: 64,
	}, keys)
	if err != nil {
		return nil, err
	}
	server, err := dtls12.NewServer(dtls12.Config{Name: name, Timeout: config.Handshake.Timeout, PSK: func(ctx context.Context, identity string) ([]byte, error) {
		kc, err := e.PSK(ctx, identity, time.Now())
		if err != nil {
			return nil, err
		}
		return kc.Reveal(), nil
	}})
	if err != nil {
		return nil, err
	}
	// An identifier that the MAF does not know brings B to its MAF before A comes.
	unknown := tef.NewKeyID([muster.RelativeSize]byte{}, config.MAF.FQDN)
	if _, err := keys.RetrieveKey(ctx, unknown); muster.CodeOf(err) != muster.CodeKeyUnknown {
		return nil, fmt.Errorf("entity B does not reach its MAF: %w", err)
	}
	listener, err := dtls12.Listen("127.0.0.1:0", dtls12.Limits{})
	return &demoEntity{e, name, listener, server}, err
}

// meet opens a session as A does and answers it as B does, and compares the ends.
func (e *demoEntity) meet(ctx context.Context, a muster.EnroleeID, key tef.KeyRegistration) error {
	var ours, theirs muster.Digest
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { ours, err = e.call(ctx, key); return err })
	group.Go(func() (err error) { theirs, err = e.answer(ctx, a, key); return err })
	if err := group.Wait(); err != nil {
		return err
	}
	if ours != theirs {
		return errors.New("the two ends have different sessions")
	}
	return nil
}

const demoGreeting = "Hello from the other side of a MAF."

// call is A's side: it sends a greeting and expects it back.
func (e *demoEntity) call(ctx context.Context, key tef.KeyRegistration) (binding muster.Digest, err error) {
	client, err := dtls12.NewClient(dtls12.Config{Name: e.name, PSKIdentity: key.ID.String(), PSKKey: key.Key.Reveal})
	if err != nil {
		return binding, err
	}
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return binding, err
	}
	conn, err := client.Handshake(ctx, socket, e.listener.Addr())
	if err != nil {
		return binding, fmt.Errorf("handshake of A with B: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte(demoGreeting)); err != nil {
		return binding, err
	}
	if err := expectGreeting(ctx, conn); err != nil {
		return binding, fmt.Errorf("what A hears from B: %w", err)
	}
	return conn.Session.Binding()
}

// answer is B's side: it looks who has come, and sends a greeting back.
func (e *demoEntity) answer(ctx context.Context, a muster.EnroleeID, key tef.KeyRegistration) (binding muster.Digest, err error) {
	// Accept ends with the listener, which the end of the context closes.
	defer context.AfterFunc(ctx, func() { _ = e.listener.Close() })()
	socket, remote, err := e.listener.Accept()
	if err != nil {
		return binding, err
	}
	conn, err := e.server.Handshake(ctx, socket, remote)
	if err != nil {
		return binding, fmt.Errorf("handshake of B with A: %w", err)
	}
	defer func() { _ = conn.Close() }()
	peer, err := e.Peer(conn.Session, time.Now())
	switch {
	case err != nil:
		return binding, err
	case peer.Source != a || peer.ID != key.ID || !peer.Key.Equal(key.Key):
		return binding, fmt.Errorf("entity B has the key %s of %s, not %s of %s", peer.ID, peer.Source, key.ID, a)
	}
	if err := expectGreeting(ctx, conn); err != nil {
		return binding, fmt.Errorf("what B hears from A: %w", err)
	}
	if _, err := conn.Write([]byte(demoGreeting)); err != nil {
		return binding, err
	}
	if binding, err = conn.Session.Binding(); err != nil {
		return binding, err
	}
	// B stays until A has closed, so that a lost datagram does not fail the demo.
	_, _ = conn.Read(make([]byte, 1))
	return binding, nil
}

func expectGreeting(ctx context.Context, conn *handshake.Conn) error {
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	buffer := make([]byte, 2048)
	n, err := conn.Read(buffer)
	if err != nil {
		return err
	}
	if !bytes.Equal(buffer[:n], []byte(demoGreeting)) {
		return fmt.Errorf("%d octets that are no greeting", n)
	}
	return nil
}
