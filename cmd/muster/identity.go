package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"muster"
	"muster/cert"
	"muster/metrics"
)

// identityPoll is how often the files of an identity are looked at. A change is
// taken up when the files have been the same for one more look, so that a
// certificate is not read with the key of the one before.
const identityPoll = 5 * time.Second

// An identitySource returns a function's own certificate in every handshake.
type identitySource func() (*tls.Certificate, error)

func steady(certificate *tls.Certificate) identitySource {
	return func() (*tls.Certificate, error) { return certificate, nil }
}

// An identity is a function's own certificate, which can be replaced while it
// runs: handshakes that begin afterwards show the new one, and no session ends.
type identity struct {
	name    muster.FQDN
	config  atomic.Pointer[identityConfig]
	current atomic.Pointer[tls.Certificate]
}

// open reads the certificate and key of a function.
func (c identityConfig) open(name muster.FQDN) (*identity, error) {
	certificate, err := c.load()
	if err != nil {
		return nil, err
	}
	i := &identity{name: name}
	i.put(c, certificate)
	return i, nil
}

func (i *identity) get() (*tls.Certificate, error) { return i.current.Load(), nil }

func (i *identity) leaf() *x509.Certificate { return i.current.Load().Leaf }

func (i *identity) put(config identityConfig, certificate *tls.Certificate) {
	i.config.Store(&config)
	i.current.Store(certificate)
}

// next reads what is to replace the identity. If it is another certificate, it must
// be valid at now and carry the function's name: what every peer would refuse is
// not better than the old one. The same certificate is taken as it is, so that one
// which has expired does not keep new rules from taking effect.
func (i *identity) next(config identityConfig, now time.Time) (*tls.Certificate, error) {
	certificate, err := config.load()
	if err != nil {
		return nil, err
	}
	leaf := certificate.Leaf
	if leaf.Equal(i.leaf()) {
		return certificate, nil
	}
	wanted, err := cert.ParseName(muster.FlavourFQDN, i.name.String())
	if err != nil {
		return nil, err
	}
	switch names, err := cert.Names(leaf); {
	case err != nil:
		return nil, err
	case !slices.Contains(names, wanted):
		return nil, muster.Refuse(muster.CodeNameMismatch, "%s: the certificate is not for %s", config.Certificate, i.name)
	case now.Before(leaf.NotBefore):
		return nil, muster.Refuse(muster.CodeNotYetValid, "%s: the certificate is valid from %s", config.Certificate, leaf.NotBefore)
	case now.After(leaf.NotAfter):
		return nil, muster.Refuse(muster.CodeExpired, "%s: the certificate expired at %s", config.Certificate, leaf.NotAfter)
	}
	return certificate, nil
}

// A stamp tells whether a file was written anew. That of a missing file is zero.
type stamp struct {
	modified time.Time
	size     int64
}

func stampOf(file string) stamp {
	info, err := os.Stat(file)
	if err != nil {
		return stamp{}
	}
	return stamp{info.ModTime(), info.Size()}
}

func (c identityConfig) stamps() [3]stamp {
	return [...]stamp{stampOf(c.Certificate), stampOf(c.Key), stampOf(c.Staple)}
}

// watch takes up what the files of the identity become, until ctx ends. What
// cannot replace the identity is refused once, and the old one stays.
func (i *identity) watch(ctx context.Context, every time.Duration, log *slog.Logger, set *metrics.Set) {
	known := i.config.Load().stamps()
	before := known
	for sleep(ctx, every) == nil {
		config := *i.config.Load()
		now := config.stamps()
		if now == known || now != before {
			before = now
			continue
		}
		known = now
		certificate, err := i.next(config, time.Now())
		set.Reloaded("identity", err)
		if err != nil {
			logRefusal(log, "identity refused, the old one stays", err)
			continue
		}
		changed := !certificate.Leaf.Equal(i.leaf()) // a reload may have been here first, or the staple alone is new
		i.put(config, certificate)
		if changed {
			logIdentity(log, certificate)
		}
	}
}

func logIdentity(log *slog.Logger, certificate *tls.Certificate) {
	log.Info("identity replaced", "certificate", muster.DigestOf(certificate.Leaf.Raw).String(), "expires", certificate.Leaf.NotAfter.UTC())
}

// watchIdentity has the service take up a new identity until it stops.
func (s *service) watchIdentity() {
	s.tasks.Go(func() error {
		s.own.watch(s.base, identityPoll, s.log, s.set)
		return nil
	})
}
