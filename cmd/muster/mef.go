package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/binding"
	"muster/cert"
	"muster/mef"
	"muster/primitive"
)

// tombstoneGrace is how long an expired record keeps its identifier from return.
const tombstoneGrace = 7 * 24 * time.Hour

const sweepInterval = 10 * time.Second

func newMEFCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "mef --config FILE",
		Short: "Run an M2M Enrolment Function until SIGTERM",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readMEFConfig(file)
			if err != nil {
				return err
			}
			service, err := startMEF(cmd.Context(), config, newLogger(cmd.ErrOrStderr()).With("function", config.FQDN), observer{})
			if err != nil {
				return err
			}
			<-cmd.Context().Done()
			return service.stop()
		},
	}
	configFlag(cmd, &file)
	return cmd
}

// newMEF assembles the function without a socket, which checks the configuration.
func newMEF(config *mefConfig, store mefStore) (*mef.Function, error) {
	wire, err := primitive.NewWire(primitive.WireConfig{})
	if err != nil {
		return nil, err
	}
	c := mef.Config{
		FQDN: config.FQDN, Derivation: config.Derivation, Profile: config.Profile,
		FetchWindow: config.FetchWindow, MaxFetches: config.MaxFetches, MaxLive: config.MaxLive,
		Wire: wire, Administrators: config.Administrators,
	}
	if c.Intermediates, err = readCertificates(config.Intermediates); err != nil {
		return nil, err
	}
	anchors := anchorCache{}
	for _, m := range config.MAFs {
		roots, err := anchors.read(m.Anchors)
		if err != nil {
			return nil, err
		}
		c.MAFs = append(c.MAFs, mef.Client{Name: m.FQDN, Anchors: roots})
	}
	for _, in := range config.Instructions {
		roots, err := anchors.read(in.Anchors)
		if err != nil {
			return nil, err
		}
		name, err := cert.ParseName(in.Certificate.Flavour, in.Certificate.Name)
		if err != nil {
			return nil, configErrorf("the instruction for %s: %v", in.EnroleeID, err)
		}
		c.Instructions = append(c.Instructions, mef.Instruction{
			Certificate: name, Anchors: roots, EnroleeID: in.EnroleeID, Targets: in.Targets, Lifetime: in.Lifetime,
		})
	}
	function, err := mef.New(c, store, store)
	if err != nil {
		return nil, configErrorf("%v", err)
	}
	return function, nil
}

func startMEF(ctx context.Context, config *mefConfig, log *slog.Logger, seen observer) (*service, error) {
	identity, err := config.Identity.load()
	if err != nil {
		return nil, err
	}
	store, err := openStore(ctx, config.Store)
	if err != nil {
		return nil, err
	}
	s := newService(log)
	s.closers = append(s.closers, store.Close)
	function, err := newMEF(config, store)
	if err == nil {
		err = s.listen(config.FQDN, config.Listen, config.Handshake, identity, mefRole(function, log, seen))
	}
	if err != nil {
		_ = s.stop()
		return nil, err
	}
	s.sweepEvery(sweepInterval, func(ctx context.Context, now time.Time, limit int) (int, error) {
		return store.Sweep(ctx, now, config.FetchWindow, tombstoneGrace, limit)
	})
	s.sweepEvery(sweepInterval, store.SweepRegistrations)
	return s, nil
}

func mefRole(function *mef.Function, log *slog.Logger, seen observer) role {
	return role{
		verify: function.VerifyPeer,
		established: func(ctx context.Context, s *muster.Session) error {
			enrolment, err := function.Established(ctx, s, time.Now())
			if err == nil && !enrolment.KeID.IsZero() {
				seen.sawEnrolment(enrolment)
				log.Info("enrolled", "enrolee", enrolment.EnroleeID, "keid", enrolment.KeID,
					"generation", enrolment.Generation, "expires", enrolment.Expires.UTC())
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
