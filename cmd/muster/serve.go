package main

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"muster"
	"muster/binding"
	"muster/binding/awkward"
	"muster/binding/coap"
	"muster/binding/websocket"
	"muster/console"
	"muster/handshake"
	"muster/handshake/dtls12"
	"muster/maf"
	"muster/mef"
	"muster/metrics"
	"muster/primitive"
	"muster/tracing"
)

// A service is a MEF or a MAF on its sockets. It runs from start to stop.
type service struct {
	tls  net.Listener
	dtls *dtls12.Listener

	log       *slog.Logger
	entrances []*entrance
	turns     *turnstile
	http      *binding.Server
	websocket *websocket.Server
	coap      *coap.Server
	closers   []func() error // in reverse order of opening
	renew     func() (*renewal, error)
	own       *identity
	set       *metrics.Set // nil without metrics
	trail     *trail       // nil without an audit log and operators
	reloading sync.Mutex
	status    *statusSource
	health    net.Listener // nil without metrics
	admin     net.Listener // nil without operators
	rules     *ruleKeeper  // nil for a MAF
	operators atomic.Pointer[[]console.Client]
	started   time.Time
	checks    []check // of readiness
	anchors   atomic.Pointer[anchorTimes]
	draining  atomic.Bool

	base   context.Context // of all that runs; ends after the drain
	cancel context.CancelFunc
	tasks  errgroup.Group
}

func newService(log *slog.Logger) *service {
	s := &service{log: log, turns: newTurnstile(turnsOfMachine()), started: time.Now()}
	s.base, s.cancel = context.WithCancel(context.Background())
	return s
}

// A role is what a service does with its sessions.
type role struct {
	verify      func(chain []*x509.Certificate, now time.Time) (muster.Peer, error)
	psk         handshake.PSK // may be nil, and so may verify, but not both
	pskTime     time.Duration // the longest that psk takes
	established func(ctx context.Context, s *muster.Session) error
	handler     primitive.Handler
	fetch       binding.FetchFunc
	explain     func(raw [][]byte, now time.Time) explanation // of a MEF
	set         *metrics.Set                                  // may be nil
	tracer      *tracing.Tracer                               // may be nil
	refusals    *refusalLog                                   // of what verify refuses; may be nil
	awkward     *awkward.Mode                                 // nil but for tests of clients
}

// listen opens the sockets that the configuration names.
func (s *service) listen(name muster.FQDN, listen listenConfig, limits handshakeConfig, identity identitySource, r role) error {
	if listen.TLS != "" {
		if err := s.listenTLS(name, listen, limits, identity, r); err != nil {
			return err
		}
	}
	if listen.DTLS != "" {
		return s.listenDTLS(name, listen.DTLS, limits, identity, r)
	}
	return nil
}

func (s *service) listenTLS(name muster.FQDN, listen listenConfig, limits handshakeConfig, identity identitySource, r role) error {
	server, err := newStreamServer(name, limits, identity, r, s.turns)
	if err != nil {
		return err
	}
	if s.tls, err = listenStream(listen.TLS); err != nil {
		return configErrorf("listen.tls: %v", err)
	}
	s.closers = append(s.closers, s.tls.Close)
	s.websocket = websocket.NewServer(websocket.Config{Handler: r.handler, Origins: listen.Origins})
	http := binding.Config{Handler: r.handler, Fetch: r.fetch, Upgrade: s.websocket.Upgrade, Logger: s.log}
	if r.awkward != nil {
		http.Decorate = r.awkward.HTTP
	} else if r.tracer != nil {
		http.Decorate = continueTraces
	}
	s.http = binding.NewServer(http)
	s.tasks.Go(s.http.Serve)
	door := &entrance{log: s.log, refusals: r.refusals, set: r.set, tracer: r.tracer, established: r.established, turns: s.turns, serve: func(_ context.Context, c *handshake.Conn) {
		if err := s.http.Handle(c); err != nil {
			s.log.Debug("connection dropped", "error", err)
		}
	}}
	r.set.WatchDoor(string(overTLS), metrics.Door{Live: door.crowd.count, HalfOpen: door.threshold.count, Shed: func() uint64 { return door.threshold.shedCount() + door.busy.Load() }})
	s.entrances = append(s.entrances, door)
	s.tasks.Go(func() error { return door.acceptTLS(s.base, s.tls, server) })
	s.log.Info("listening", "transport", overTLS, "address", s.tls.Addr().String())
	return nil
}

func (s *service) listenDTLS(name muster.FQDN, address string, limits handshakeConfig, identity identitySource, r role) error {
	config := dtls12.Config{Name: name, PSK: r.psk, LookupTime: r.pskTime, Timeout: limits.Timeout, MTU: limits.MTU, SNIOptional: limits.ServerNameOptional, Turn: s.turns.take}
	if r.verify != nil {
		config.Identity, config.Verify = identity, r.verifyNow
	}
	server, err := dtls12.NewServer(config)
	if err != nil {
		return configErrorf("handshake: %v", err)
	}
	socket, err := listenDatagrams(address)
	if err != nil {
		return configErrorf("listen.dtls: %v", err)
	}
	if s.dtls, err = dtls12.NewListener(socket, dtls12.Limits{Room: s.turns.room}); err != nil {
		return configErrorf("listen.dtls: %v", err)
	}
	s.closers = append(s.closers, s.dtls.Close)
	s.coap = coap.NewServer(coap.Config{Handler: r.handler, Logger: s.log})
	door := &entrance{log: s.log, refusals: r.refusals, set: r.set, tracer: r.tracer, established: r.established, serve: func(ctx context.Context, c *handshake.Conn) {
		if r.awkward != nil {
			c = r.awkward.Datagrams(c)
		}
		if err := s.coap.ServeConn(ctx, c); err != nil {
			s.log.Debug("association ended", "error", err)
		}
	}}
	r.set.WatchDoor(string(overDTLS), metrics.Door{Live: door.crowd.count, HalfOpen: s.dtls.HalfOpen, Shed: func() uint64 { return s.dtls.Shed() + door.busy.Load() }})
	s.entrances = append(s.entrances, door)
	s.tasks.Go(func() error { return door.acceptDTLS(s.base, s.dtls, server) })
	s.log.Info("listening", "transport", overDTLS, "address", s.dtls.Addr().String())
	return nil
}

func (r role) verifyNow(chain []*x509.Certificate) (muster.Peer, error) {
	now := time.Now()
	peer, err := r.verify(chain, now)
	if err != nil {
		err = &refusedChain{err, chain, now}
	}
	return peer, err
}

// stop takes no more connections, waits at most drainTime for what has begun, and
// closes all.
func (s *service) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	s.draining.Store(true)
	var errs []error
	if s.tls != nil {
		errs = append(errs, s.tls.Close())
	}
	if s.dtls != nil {
		errs = append(errs, s.dtls.Close()) // no new association; those at hand go on
	}
	if s.http != nil {
		errs = append(errs, s.http.Shutdown(ctx), s.websocket.Shutdown(ctx))
	}
	s.cancel() // associations that are idle end at once, requests under way are answered
	for _, door := range s.entrances {
		door.wait(ctx)
	}
	for i := len(s.closers) - 1; i >= 0; i-- {
		if err := s.closers[i](); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, s.tasks.Wait())...)
}

// sweepEvery calls sweep until the service stops, at once again while there is
// more to sweep.
func (s *service) sweepEvery(interval time.Duration, sweep func(ctx context.Context, now time.Time, limit int) (int, error)) {
	const limit = 200
	s.tasks.Go(func() error {
		for {
			n, err := sweep(s.base, time.Now(), limit)
			if s.base.Err() != nil {
				return nil
			}
			if err != nil {
				s.log.Warn("sweep failed", "error", err)
			}
			if n < limit || err != nil {
				if sleep(s.base, interval) != nil {
					return nil
				}
			}
		}
	})
}

// An observer is told what a function has made durable. Its funcs may be nil.
type observer struct {
	enrolled func(mef.Enrolment)
	attached func(c maf.Credential, pskIdentity string)
}

func (o observer) sawEnrolment(e mef.Enrolment) {
	if o.enrolled != nil {
		o.enrolled(e)
	}
}

func (o observer) sawAttachment(c maf.Credential, pskIdentity string) {
	if o.attached != nil {
		o.attached(c, pskIdentity)
	}
}
