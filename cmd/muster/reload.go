package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"muster"
	"muster/audit"
	"muster/binding"
	"muster/console"
	"muster/primitive"
)

// A slot holds a role that can be replaced while sessions go on under it: each
// handshake and each request asks the one that is there.
type slot struct{ current atomic.Pointer[role] }

func newSlot(r role) *slot {
	s := new(slot)
	s.current.Store(&r)
	return s
}

// role returns the role of the slot, whatever that is at the time. What the first
// one cannot do, a later one is not asked for.
func (s *slot) role() role {
	r := *s.current.Load()
	if r.verify != nil {
		r.verify = func(chain []*x509.Certificate, now time.Time) (muster.Peer, error) {
			return s.current.Load().verify(chain, now)
		}
	}
	r.psk = func(ctx context.Context, identity string) ([]byte, error) { return s.current.Load().psk(ctx, identity) }
	r.established = func(ctx context.Context, session *muster.Session) error {
		return s.current.Load().established(ctx, session)
	}
	r.handler = primitive.HandlerFunc(func(ctx context.Context, session *muster.Session, request *primitive.Request) (*primitive.Response, error) {
		return s.current.Load().handler.Serve(ctx, session, request)
	})
	if r.fetch != nil {
		r.fetch = func(ctx context.Context, session *muster.Session, request binding.FetchRequest) (binding.Credential, error) {
			return s.current.Load().fetch(ctx, session, request)
		}
	}
	return r
}

// A renewal is a configuration that was read anew and found in order.
type renewal struct {
	identity identityConfig
	anchors  []string // files
	admin    adminConfig
	commit   func()         // puts it in the place of the one before
	restart  []string       // keys of what has changed and takes effect at the next start
	read     map[string]int // how many there are of each rule, by its key
}

// leastHeap is what a function holds, in octets, so that the collector runs when
// as much has been allocated and not with every 4 MiB, which takes a sixth of the
// CPU time of enrolments. With 32 MiB there is no gain over 16. Nothing is written
// there, so that it is no memory in use; the garbage that waits is.
const leastHeap = 16 << 20

// awaitEnd returns when ctx ends. Until then, each SIGHUP makes the service read
// its configuration again. The manager is told what goes on.
func (s *service) awaitEnd(ctx context.Context, m manager) {
	ballast := make([]byte, leastHeap)
	defer runtime.KeepAlive(ballast)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	s.tasks.Go(func() error {
		m.keepAwake(s.base) // the drain included
		return nil
	})
	m.ready()
	for {
		select {
		case <-ctx.Done():
			m.stopping()
			return
		case <-hangup:
			m.reloading()
			_, _ = s.reload() // which logs why
			m.ready()
		}
	}
}

// reload reads the configuration and the identity again and puts both in place;
// no session ends. What is wrong with either changes nothing.
func (s *service) reload() (console.Reloaded, error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	done, err := s.renewAll()
	s.set.Reloaded("configuration", err)
	if err != nil {
		logRefusal(s.log, "configuration refused, the old one stays", err)
	}
	return done, err
}

func (s *service) renewAll() (done console.Reloaded, err error) {
	next, err := s.renew()
	if err != nil {
		return done, err
	}
	certificate, err := s.own.next(next.identity, time.Now())
	if err != nil {
		return done, err
	}
	anchors, err := readAnchorTimes(next.anchors)
	if err != nil {
		return done, err
	}
	operators, err := next.admin.read(s.status)
	if err != nil {
		return done, err
	}
	counted := make([]string, 0, len(next.read))
	for _, key := range slices.Sorted(maps.Keys(next.read)) {
		counted = append(counted, fmt.Sprint(key, " ", next.read[key]))
	}
	if err := s.trail.write(s.base, audit.Entry{Kind: audit.KindRules, Who: "configuration file", What: strings.Join(counted, ", ")}); err != nil {
		return done, err
	}
	next.commit()
	s.operators.Store(&operators)
	s.anchors.Store(&anchors)
	done = console.Reloaded{Read: next.read, Identity: !certificate.Leaf.Equal(s.own.leaf()), Restart: next.restart}
	s.own.put(next.identity, certificate)
	s.log.Info("configuration replaced", "read", next.read)
	if done.Identity {
		logIdentity(s.log, certificate)
	}
	if len(next.restart) > 0 {
		s.log.Warn("some of what has changed needs a restart", "keys", next.restart)
	}
	return done, nil
}

// changedKeys returns the keys, as a file has them, of what differs between two parts
// of a configuration, which are structs of one type.
func changedKeys(before, after any) (keys []string) {
	keys = []string{} // and not null for programs
	one, other := reflect.ValueOf(before), reflect.ValueOf(after)
	for i, field := range reflect.VisibleFields(one.Type()) {
		key, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if key == "" || reflect.DeepEqual(one.Field(i).Interface(), other.Field(i).Interface()) {
			continue
		}
		var below []string
		if field.Type.Kind() == reflect.Struct {
			below = changedKeys(one.Field(i).Interface(), other.Field(i).Interface())
		}
		if len(below) == 0 {
			keys = append(keys, key)
		}
		for _, name := range below {
			keys = append(keys, key+"."+name)
		}
	}
	return keys
}

// renewMEF reads the configuration of a MEF again.
func renewMEF(running *mefConfig, assemble func(*mefConfig) (role, error), slot *slot, keeper *ruleKeeper) (*renewal, error) {
	config, err := readMEFConfig(running.file)
	if err != nil {
		return nil, err
	}
	if config.FQDN != running.FQDN {
		return nil, configErrorf("%s: the fqdn is %s, and was %s: that needs a restart", running.file, config.FQDN, running.FQDN)
	}
	restart := changedKeys(running.fixed(), config.fixed())
	if config.Admin.Rules != running.Admin.Rules {
		config.Admin.Rules = running.Admin.Rules
		if config.managed, err = readManaged(config.Admin.Rules); err != nil {
			return nil, err
		}
	}
	role, err := assemble(config)
	if err != nil {
		return nil, err
	}
	configured, err := keeper.shown(config)
	if err != nil {
		return nil, err
	}
	return &renewal{
		identity: config.Identity, anchors: config.anchorFiles(), admin: config.Admin, restart: restart,
		commit: func() {
			slot.current.Store(&role)
			keeper.put(config, configured)
		},
		read: map[string]int{"instructions": len(config.Instructions), "mafs": len(config.MAFs), "verdicts": len(config.Verdicts), "admin.clients": len(config.Admin.Clients)},
	}, nil
}

// fixed returns what takes effect at a start only.
func (c *mefConfig) fixed() mefConfig {
	return mefConfig{Listen: c.Listen, Store: c.Store, Handshake: c.Handshake, Status: c.Status, Metrics: c.Metrics, Tracing: c.Tracing, Audit: c.Audit, Admin: c.Admin.fixed()}
}

// renewMAF reads the configuration of a MAF again. The time for a fetch stays: a
// handshake that is refused takes as long, whatever the reason.
func renewMAF(running *mafConfig, assemble func(*mafConfig) (role, *mefClients, error), slot *slot, mefs *atomic.Pointer[mefClients]) (*renewal, error) {
	config, err := readMAFConfig(running.file)
	if err != nil {
		return nil, err
	}
	if config.FQDN != running.FQDN {
		return nil, configErrorf("%s: the fqdn is %s, and was %s: that needs a restart", running.file, config.FQDN, running.FQDN)
	}
	restart := changedKeys(running.fixed(), config.fixed())
	config.FetchTimeout = running.FetchTimeout
	role, clients, err := assemble(config)
	if err != nil {
		return nil, err
	}
	return &renewal{
		identity: config.Identity, anchors: config.anchorFiles(), admin: config.Admin, restart: restart,
		commit: func() {
			slot.current.Store(&role)
			_ = mefs.Swap(clients).close()
		},
		read: map[string]int{"mefs": len(config.MEFs), "clients": len(config.Clients), "stakeholders": len(config.Stakeholders), "admin.clients": len(config.Admin.Clients)},
	}, nil
}

// fixed returns what takes effect at a start only. Whether there are clients with
// certificates decides which handshakes the listeners know.
func (c *mafConfig) fixed() mafConfig {
	fixed := mafConfig{Listen: c.Listen, Store: c.Store, Handshake: c.Handshake, Status: c.Status, Metrics: c.Metrics, Tracing: c.Tracing, Audit: c.Audit, Admin: c.Admin.fixed(), FetchTimeout: c.FetchTimeout}
	if len(c.Clients) > 0 {
		fixed.Clients = []clientConfig{}
	}
	return fixed
}
