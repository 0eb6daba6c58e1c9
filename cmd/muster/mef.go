package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/audit"
	"muster/binding"
	"muster/cert"
	"muster/console"
	"muster/mef"
	"muster/metrics"
	"muster/primitive"
	"muster/tef"
)

// tombstoneGrace is how long an expired record keeps its identifier from return.
const tombstoneGrace = 7 * 24 * time.Hour

const sweepInterval = 10 * time.Second

func newMEFCommand() *cobra.Command {
	var file string
	var seed uint64
	cmd := &cobra.Command{
		Use:   "mef --config FILE",
		Short: "Run an M2M Enrolment Function until SIGTERM",
		Long: `Run an M2M Enrolment Function until SIGTERM.

On SIGHUP it reads the configuration again and puts it in the place of the one
before, with its trust anchors and its identity, but for what needs a restart:
listen, store, handshake, status, metrics, tracing, audit and admin. No session
ends. A configuration that is wrong is refused, and the old one stays. The files
of the identity are taken up without a signal when they have changed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readMEFConfig(file)
			if err != nil {
				return err
			}
			config.awkward = awkwardMode(cmd, seed)
			service, err := startMEF(cmd.Context(), config, newLogger(cmd.ErrOrStderr(), "function", config.FQDN), observer{})
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

// newMEF assembles the function without a socket, which checks the configuration.
func newMEF(config *mefConfig, store mefStore, status *statusSource) (*mef.Function, error) {
	wire, err := primitive.NewWire(primitive.WireConfig{})
	if err != nil {
		return nil, err
	}
	c := mef.Config{
		FQDN: config.FQDN, Derivation: config.Derivation, Profile: config.Profile,
		FetchWindow: config.FetchWindow, MaxFetches: config.MaxFetches, MaxLive: config.MaxLive,
		Kpms: store, Wire: wire, Administrators: config.Administrators, MaxKeys: maxKeys, RetryDuration: retryDuration, Rand: rand.Reader,
	}
	if c.Stakeholders, err = stakeholders(config.Stakeholders); err != nil {
		return nil, err
	}
	if c.Rules, err = mefRules(config, status); err != nil {
		return nil, err
	}
	function, err := mef.New(c, store, tef.Stores{Registrations: store, Keys: store, Commands: store})
	if err != nil {
		return nil, configErrorf("%v", err)
	}
	return function, nil
}

// mefRules reads what the rules of the configuration name.
func mefRules(config *mefConfig, status *statusSource) (rules mef.Rules, err error) {
	if rules.Intermediates, err = readCertificates(config.Intermediates); err != nil {
		return rules, err
	}
	anchors := anchorCache{}
	for _, m := range config.MAFs {
		roots, err := anchors.read(m.Anchors)
		if err != nil {
			return rules, err
		}
		rules.MAFs = append(rules.MAFs, mef.Client{Name: m.FQDN, Anchors: roots, Status: status.question(m.Status)})
	}
	for i, in := range config.Instructions {
		instruction, err := in.read(anchors)
		if err != nil {
			return rules, configErrorf("instruction %d: %v", i+1, err)
		}
		instruction.Status = status.question(in.Status)
		rules.Instructions = append(rules.Instructions, instruction)
	}
	for i, v := range config.Verdicts {
		verdict, err := v.read()
		if err != nil {
			return rules, configErrorf("verdict %d: %v", i+1, err)
		}
		rules.Verdicts = append(rules.Verdicts, verdict)
	}
	return rules, addManaged(&rules, config.managed, anchors, status)
}

func (c instructionConfig) read(anchors anchorCache) (mef.Instruction, error) {
	in := mef.Instruction{EnroleeID: c.EnroleeID, KpmIDs: c.KpmIDs, Targets: c.Targets, Lifetime: c.Lifetime}
	var err error
	if in.Anchors, err = anchors.read(c.Anchors); err != nil {
		return in, err
	}
	if c.Certificate == (certificateConfig{}) && c.Template == "" && len(c.KpmIDs) > 0 {
		return in, nil
	}
	if c.Certificate.Pattern == "" {
		in.Certificate, err = cert.ParseName(c.Certificate.Flavour, c.Certificate.Name)
		if err == nil && c.Template != "" {
			err = errors.New("a template is for a pattern")
		}
		return in, err
	}
	if c.Certificate.Name != "" {
		return in, errors.New("a certificate has either a name or a pattern")
	}
	if in.Pattern, err = mef.ParsePattern(c.Certificate.Flavour, c.Certificate.Pattern); err != nil {
		return in, err
	}
	in.Template, err = mef.ParseTemplate(c.Template, in.Pattern)
	return in, err
}

func (c verdictConfig) read() (mef.Verdict, error) {
	v := mef.Verdict{Sentence: c.Verdict, EnroleeID: c.EnroleeID, Before: c.Before, Reason: c.Reason}
	if c.Certificate != (certificateConfig{}) {
		var err error
		if v.Name, err = cert.ParseName(c.Certificate.Flavour, c.Certificate.Name); err != nil {
			return v, err
		}
	}
	if c.Digest != "" {
		digest, err := hex.DecodeString(c.Digest)
		if err != nil || len(digest) != len(v.Certificate) {
			return v, errors.New("the digest is not 64 hexadecimal digits")
		}
		v.Certificate = muster.Digest(digest)
	}
	return v, nil
}

func startMEF(ctx context.Context, config *mefConfig, log *slog.Logger, seen observer) (*service, error) {
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
	set := config.Metrics.set(metrics.MEF)
	s.own, s.set = identity, set
	tracer, err := config.Tracing.tracer("muster-mef", log)
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
	if s.trail != nil {
		store = watchedStore{store, s.trail.live}
	}
	assemble := func(config *mefConfig) (role, error) {
		function, err := newMEF(config, store, status)
		if err != nil {
			return role{}, err
		}
		return mefRole(function, log, seen.measured(set), s.trail), nil
	}
	first, err := assemble(config)
	if err == nil {
		slot := newSlot(first)
		keeper := &ruleKeeper{service: s, assemble: assemble, slot: slot, watched: config.Admin.Listen != ""}
		var configured console.Rules
		if configured, err = keeper.shown(config); err != nil {
			return nil, errors.Join(err, s.stop())
		}
		keeper.put(config, configured)
		s.rules = keeper
		s.renew = func() (*renewal, error) { return renewMEF(config, assemble, slot, keeper) }
		role := slot.role().audited(s.trail).measured(set).traced(tracer).awkwardly(config.awkward, log)
		role.refusals = newRefusalLog(config.Store.besideStore(config.file, refusalsSuffix), config.file)
		if err = s.listen(config.FQDN, config.Listen, config.Handshake, identity.get, role); err == nil {
			err = s.watch(config.Metrics, config.anchorFiles(), storeAnswers(store))
		}
		if err == nil {
			err = s.serveAdmin(config.Admin, config.Profile, mefSources(s, config, store, keeper, role.refusals))
		}
	}
	if err != nil {
		_ = s.stop()
		return nil, err
	}
	s.watchIdentity()
	s.watchRules()
	s.sweepEvery(sweepInterval, func(ctx context.Context, now time.Time, limit int) (int, error) {
		return store.Sweep(ctx, now, config.FetchWindow, tombstoneGrace, limit)
	})
	s.sweepEvery(sweepInterval, store.SweepKpms)
	s.sweepEvery(sweepInterval, store.SweepRegistrations)
	s.sweepEvery(sweepInterval, store.SweepKeys)
	s.resealEvery(sweepInterval, store)
	s.sweepEvery(sweepInterval, func(ctx context.Context, now time.Time, limit int) (int, error) {
		return store.SweepCommands(ctx, now.Add(-tombstoneGrace), limit)
	})
	return s, nil
}

func mefRole(function *mef.Function, log *slog.Logger, seen observer, trail *trail) role {
	return role{
		verify:  function.VerifyPeer,
		explain: func(raw [][]byte, now time.Time) explanation { return explain(function, raw, now) },
		psk: func(ctx context.Context, identity string) ([]byte, error) {
			kpm, err := function.PSK(ctx, identity, time.Now())
			if err != nil {
				logRefusal(log, "psk_identity refused", err)
				return nil, err
			}
			return kpm.Reveal(), nil
		},
		established: func(ctx context.Context, s *muster.Session) error {
			enrolment, err := function.Established(ctx, s, time.Now())
			if err == nil && !enrolment.KeID.IsZero() {
				seen.sawEnrolment(enrolment)
				log.Info("enrolled", "enrolee", enrolment.EnroleeID, "keid", enrolment.KeID,
					"generation", enrolment.Generation, "expires", enrolment.Expires.UTC())
				err = trail.write(ctx, audit.Entry{Kind: audit.KindEnrolled, Who: partyOf(s), Enrolee: enrolment.EnroleeID.String(), KeID: enrolment.KeID.String()})
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
		fetch: func(ctx context.Context, s *muster.Session, r binding.FetchRequest) (binding.Credential, error) {
			key, err := function.FetchCredential(ctx, s, r.From, r.KeID, r.SUID, time.Now())
			if err != nil {
				logRefusal(log, "fetch refused", err)
				return binding.Credential{}, err
			}
			log.Info("fetched", "keid", r.KeID, "enrolee", key.EnroleeID, "maf", s.Peer.Name.Text)
			return binding.Credential(key), nil
		},
	}
}
