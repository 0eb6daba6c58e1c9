package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/audit"
	"muster/binding"
	"muster/cert"
	"muster/handshake"
	"muster/maf"
	"muster/metrics"
	"muster/primitive"
	"muster/tef"
	"muster/tracing"
)

func newMAFCommand() *cobra.Command {
	var file string
	var seed uint64
	cmd := &cobra.Command{
		Use:   "maf --config FILE",
		Short: "Run an M2M Authentication Function until SIGTERM",
		Long: `Run an M2M Authentication Function until SIGTERM.

On SIGHUP it reads the configuration again and puts it in the place of the one
before, with its trust anchors and its identity, but for what needs a restart:
listen, store, handshake, status, metrics, tracing, audit, fetch_timeout, and the
first client with a certificate. No session ends. A configuration that is wrong
is refused, and the old one stays. The files of the identity are taken up without
a signal when they have changed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readMAFConfig(file)
			if err != nil {
				return err
			}
			config.awkward = awkwardMode(cmd, seed)
			service, err := startMAF(cmd.Context(), config, newLogger(cmd.ErrOrStderr(), "function", config.FQDN), observer{})
			if err != nil {
				return err
			}
			service.awaitEnd(cmd.Context(), managerOf(os.Getenv))
			return service.stop()
		},
	}
	configFlag(cmd, &file)
	awkwardFlag(cmd, &seed)
	return cmd
}

// newMAF assembles the function without a socket, which checks the configuration.
func newMAF(config *mafConfig, store mafStore, identity identitySource, status *statusSource, set *metrics.Set, tracer *tracing.Tracer) (*maf.Function, *mefClients, error) {
	wire, err := primitive.NewWire(primitive.WireConfig{})
	if err != nil {
		return nil, nil, err
	}
	mefs, err := newMEFClients(config, wire, identity, status)
	if err != nil {
		return nil, nil, err
	}
	fetches := new(ration)
	c := maf.Config{
		FQDN: config.FQDN, KeIDLifetime: config.KeIDLifetime, FetchTimeout: config.FetchTimeout, RefusalMemory: config.RefusalMemory,
		Wire: wire, Administrators: config.Administrators, MaxKeys: maxKeys, Rand: rand.Reader,
		MayFetch: func(ctx context.Context, now time.Time) error {
			endTurn(ctx) // a MEF may be far away
			return fetches.take(ctx, now)
		},
	}
	if c.Stakeholders, err = stakeholders(config.Stakeholders); err != nil {
		return nil, nil, err
	}
	if c.Intermediates, err = readCertificates(config.Intermediates); err != nil {
		return nil, nil, err
	}
	c.Profile = config.Profile
	anchors := anchorCache{}
	for i, client := range config.Clients {
		known, err := client.read(anchors)
		if err != nil {
			return nil, nil, configErrorf("client %d: %v", i+1, err)
		}
		known.Status = status.question(nil)
		c.Clients = append(c.Clients, known)
	}
	for _, m := range config.MEFs {
		c.MEFs = append(c.MEFs, maf.MEF{FQDN: m.FQDN, Enrolees: m.Enrolees})
	}
	function, err := maf.New(c, store, tef.Stores{Registrations: store, Keys: store}, traceRetriever(measureRetriever(mefs, set), tracer))
	if err != nil {
		return nil, nil, configErrorf("%v", err)
	}
	return function, mefs, nil
}

func startMAF(ctx context.Context, config *mafConfig, log *slog.Logger, seen observer) (*service, error) {
	identity, err := config.Identity.open(config.FQDN)
	if err != nil {
		return nil, err
	}
	opened, err := openStore(ctx, config.Store)
	if err != nil {
		return nil, err
	}
	s := newService(log)
	s.closers = append(s.closers, opened.Close)
	set := config.Metrics.set(metrics.MAF)
	s.own, s.set = identity, set
	tracer, err := config.Tracing.tracer("muster-maf", log)
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	s.closers = append(s.closers, tracer.Close)
	store := measureStore(opened, set)
	status, err := openStatus(config.Status, log)
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	s.askAfter(status)
	if err := s.openTrail(config.Audit, config.Admin, config.FQDN, store); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	assemble := func(config *mafConfig) (role, *mefClients, error) {
		function, mefs, err := newMAF(config, store, identity.get, status, set, tracer)
		if err != nil {
			return role{}, nil, err
		}
		r := mafRole(function, log, seen.measured(set), s.trail)
		r.verify = function.VerifyPeer
		return r, mefs, nil
	}
	first, clients, err := assemble(config)
	var mefs atomic.Pointer[mefClients]
	if err == nil {
		mefs.Store(clients)
		s.closers = append(s.closers, func() error { return mefs.Load().close() })
		if len(config.Clients) == 0 {
			first.verify = nil
		}
		slot := newSlot(first)
		s.renew = func() (*renewal, error) { return renewMAF(config, assemble, slot, &mefs) }
		role := slot.role().audited(s.trail).measured(set).traced(tracer).awkwardly(config.awkward, log)
		role.pskTime = config.FetchTimeout
		err = s.listen(config.FQDN, config.Listen, config.Handshake, identity.get, role)
	}
	if err == nil {
		err = s.watch(config.Metrics, config.anchorFiles(), storeAnswers(store), check{"mef", remembered(reachMemory, func(ctx context.Context) error { return mefs.Load().reach(ctx) })})
	}
	if err == nil {
		err = s.serveAdmin(config.Admin, config.Profile, mafSources(s, config, store))
	}
	if err != nil {
		_ = s.stop()
		return nil, err
	}
	s.watchIdentity()
	s.sweepEvery(sweepInterval, func(ctx context.Context, now time.Time, limit int) (int, error) {
		return store.SweepCredentials(ctx, now, tombstoneGrace, limit)
	})
	s.sweepEvery(sweepInterval, store.SweepRegistrations)
	s.sweepEvery(sweepInterval, store.SweepKeys)
	s.resealEvery(sweepInterval, store)
	return s, nil
}

func (c clientConfig) read(anchors anchorCache) (maf.Client, error) {
	client := maf.Client{EnroleeID: c.EnroleeID, Lifetime: c.Lifetime}
	if c.Certificate.Pattern != "" {
		return client, errors.New("a client of a MAF has a name, not a pattern")
	}
	var err error
	if client.Anchors, err = anchors.read(c.Anchors); err != nil {
		return client, err
	}
	client.Certificate, err = cert.ParseName(c.Certificate.Flavour, c.Certificate.Name)
	return client, err
}

func mafRole(function *maf.Function, log *slog.Logger, seen observer, trail *trail) role {
	return role{
		psk: func(ctx context.Context, identity string) ([]byte, error) {
			km, err := function.PSK(ctx, identity, time.Now())
			if err != nil {
				logRefusal(log, "psk_identity refused", err)
				return nil, err
			}
			return km.Reveal(), nil
		},
		established: func(ctx context.Context, s *muster.Session) error {
			credential, err := function.Established(ctx, s, time.Now())
			if err == nil {
				seen.sawAttachment(credential, s.Peer.PSKIdentity)
				log.Info("attached", "enrolee", credential.EnroleeID, "identity", s.Peer.PSKIdentity, "expires", credential.Expires.UTC())
				err = trail.write(ctx, audit.Entry{Kind: audit.KindAttached, Who: partyOf(s), Enrolee: credential.EnroleeID.String(), KeID: credential.KeID.String()})
			}
			return err
		},
		handler: primitive.HandlerFunc(func(ctx context.Context, s *muster.Session, r *primitive.Request) (*primitive.Response, error) {
			response, err := function.Serve(ctx, s, r, time.Now())
			if err != nil {
				logRefusal(log, "request refused", err)
			}
			return response, err
		}),
	}
}

// mefClients are the MAF's own sessions with its MEFs, each kept open between
// fetches and shared by them.
type mefClients struct {
	clients map[muster.FQDN]*mefClient
}

// A mefClient is a way to one MEF, and the procedures over it.
type mefClient struct {
	http *binding.Client
	mmef tef.Requester
}

func newMEFClients(config *mafConfig, wire *primitive.Wire, identity identitySource, status *statusSource) (*mefClients, error) {
	m := &mefClients{make(map[muster.FQDN]*mefClient)}
	for _, endpoint := range config.MEFs {
		if m.clients[endpoint.FQDN] != nil {
			return nil, configErrorf("the MEF %s stands twice", endpoint.FQDN)
		}
		verify, err := verifyServer(endpoint, config.Profile, status)
		if err != nil {
			return nil, err
		}
		client, err := handshake.NewClient(handshake.Config{
			Name: endpoint.FQDN, Identity: identity, VerifyStapled: verify,
			Timeout: config.FetchTimeout, NoCBC: config.Handshake.NoCBC,
		})
		if err != nil {
			return nil, err
		}
		http := binding.NewClient(binding.ClientConfig{
			Authority: endpoint.FQDN.String(), From: config.FQDN.String(), Timeout: config.FetchTimeout,
			Header: passTrace,
			Dial: func(ctx context.Context) (*handshake.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", endpoint.Address)
				if err != nil {
					return nil, err
				}
				return client.Handshake(ctx, conn)
			},
		})
		m.clients[endpoint.FQDN] = &mefClient{http, tef.Requester{
			Party: tef.MEF(), Function: endpoint.FQDN, From: config.FQDN.String(), Wire: wire, Doer: http, RequestID: rand.Text,
		}}
	}
	return m, nil
}

// RetrieveKey implements maf.Retriever.
func (m *mefClients) RetrieveKey(ctx context.Context, id muster.KeID, usage muster.SUID) (maf.RetrievedKey, error) {
	client, ok := m.clients[id.MEF()]
	if !ok {
		return maf.RetrievedKey{}, muster.Refuse(muster.CodeMEFNotListed, "%s is of a MEF that is not configured", id)
	}
	key, err := client.mmef.RetrieveKey(ctx, tef.NewKeyID(id.Relative(), id.MEF()))
	if refused, ok := errors.AsType[*primitive.Error](err); ok && refused.Status == primitive.NotFound {
		return maf.RetrievedKey{}, muster.Refuse(muster.CodeKeyUnknown, "%s: the MEF hands out no key for it: %w", id, err)
	} else if err != nil {
		return maf.RetrievedKey{}, muster.Refuse(muster.CodeMEFUnreachable, "%s: %w", id, err)
	}
	if key.Usage != usage {
		return maf.RetrievedKey{}, muster.Refuse(muster.CodeKeyUnknown, "%s: the MEF has the key for SUID %s, not %s", id, key.Usage, usage)
	}
	octets := key.Key.Reveal()
	defer clear(octets)
	km, err := muster.NewKm(octets)
	return maf.RetrievedKey{Km: km, EnroleeID: key.Source, Lifetime: time.Until(key.Expires)}, err
}

// reach returns nil if one of the MEFs answers, be it with a refusal.
func (m *mefClients) reach(ctx context.Context) error {
	var errs []error
	for name, client := range m.clients {
		_, err := client.http.Do(ctx, tef.RetrieveBase(client.mmef.Wire, client.mmef.From, rand.Text()))
		if err == nil {
			return nil
		}
		errs = append(errs, muster.Refuse(muster.CodeMEFUnreachable, "%s: %w", name, err))
	}
	return errors.Join(errs...)
}

func (m *mefClients) close() error {
	for _, client := range m.clients {
		client.http.Close()
	}
	return nil
}

// verifyServer judges the certificate of a MEF by its name and its roots.
func verifyServer(endpoint endpointConfig, profile cert.Profile, status *statusSource) (func(chain []*x509.Certificate, staple []byte) (muster.Peer, error), error) {
	anchors, err := readCertificates(endpoint.Anchors)
	if err != nil {
		return nil, err
	}
	if len(anchors) == 0 {
		return nil, configErrorf("the MEF %s has no anchors", endpoint.FQDN)
	}
	name, err := cert.ParseName(muster.FlavourFQDN, endpoint.FQDN.String())
	if err != nil {
		return nil, configErrorf("%v", err)
	}
	trust := cert.Trust{Name: name, Anchors: anchors, Usage: cert.UsageServer, Profile: profile}
	return func(chain []*x509.Certificate, staple []byte) (muster.Peer, error) {
		now, trust := time.Now(), trust
		trust.Status = status.ofServer(staple, now)
		peer, findings := cert.Verify(chain, trust, now)
		return peer, findings.Err()
	}, nil
}
