package main

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/netip"
	"time"

	"muster/cert"
	"muster/mef"
	"muster/revocation"
)

// A statusConfig says how the status of certificates is learned, and what an
// unknown one means.
type statusConfig struct {
	// Mode is hard (the default: an unknown status refuses), soft (it is a warning) or off.
	Mode revocation.Mode `yaml:"mode"`
	// Scope is path (the default: every certificate below the root) or leaf.
	Scope revocation.Scope `yaml:"scope"`
	// CRLs are files in PEM or DER, read again when they change.
	CRLs []string `yaml:"crls"`
	// CRLURLs are lists that are fetched, and fetched again ahead of their nextUpdate.
	CRLURLs []string `yaml:"crl_urls"`
	// Responders are OCSP responders that are asked before those in certificates.
	Responders []string `yaml:"responders"`
	// Follow admits the URLs in certificates, to public addresses only.
	Follow bool `yaml:"follow"`
	// Networks are further addresses that may be connected to, as prefixes.
	Networks []netip.Prefix `yaml:"networks"`
	// Nonce is offered (the default), required or off, for OCSP.
	Nonce revocation.Nonce `yaml:"nonce"`
	// Deadline bounds the question within a handshake; 2s by default.
	Deadline time.Duration `yaml:"deadline"`
}

// A statusSource answers the status questions of one function. Without a
// configuration it knows nothing and nothing is asked.
type statusSource struct {
	config  *statusConfig
	checker *revocation.Checker
}

// openStatus reads the files that the configuration names; it connects to nobody.
func openStatus(config *statusConfig, log *slog.Logger) (*statusSource, error) {
	s := &statusSource{config: config}
	if config == nil {
		return s, nil
	}
	var err error
	s.checker, err = revocation.New(revocation.Config{
		Files: config.CRLs, URLs: config.CRLURLs, Responders: config.Responders, Follow: config.Follow,
		Networks: config.Networks, Nonce: config.Nonce, Deadline: config.Deadline, Log: log,
	})
	if err != nil {
		return nil, configErrorf("status: %v", err)
	}
	return s, nil
}

// run keeps lists fresh until ctx ends.
func (s *statusSource) run(ctx context.Context) error {
	if s.checker != nil {
		s.checker.Run(ctx)
	}
	return nil
}

func (s *statusSource) close() error {
	if s.checker == nil {
		return nil
	}
	return s.checker.Close()
}

// question returns the question that is asked of a valid path, by a rule's own
// mode if it has one; nil if none is asked.
func (s *statusSource) question(own *revocation.Mode) mef.Status {
	if s == nil || s.checker == nil {
		return nil
	}
	mode := s.config.Mode
	if own != nil {
		mode = *own
	}
	if mode == revocation.ModeOff {
		return nil
	}
	return func(path []*x509.Certificate, now time.Time) cert.Findings { return s.check(mode, path, nil, now) }
}

// ofServer returns the question about a server, which may have stapled its answer.
func (s *statusSource) ofServer(staple []byte, now time.Time) func(path []*x509.Certificate) cert.Findings {
	if s == nil || s.checker == nil || s.config.Mode == revocation.ModeOff {
		return nil
	}
	return func(path []*x509.Certificate) cert.Findings { return s.check(s.config.Mode, path, staple, now) }
}

func (s *statusSource) check(mode revocation.Mode, path []*x509.Certificate, staple []byte, now time.Time) cert.Findings {
	return s.checker.Check(context.Background(), path, revocation.Question{Mode: mode, Scope: s.config.Scope, Now: now, Staple: staple})
}

// askAfter lets a service own its status source.
func (s *service) askAfter(status *statusSource) {
	s.status = status
	s.closers = append(s.closers, status.close)
	s.tasks.Go(func() error { return status.run(s.base) })
}

func (c *statusConfig) resolve(file string) {
	if c != nil {
		resolveAll(file, c.CRLs)
	}
}
