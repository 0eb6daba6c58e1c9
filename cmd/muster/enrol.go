package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/enrolee"
	"muster/enrolee/dialer"
	"muster/enrolee/keyring"
	"muster/primitive"
)

func newEnrolCommand() *cobra.Command {
	var file string
	var renew, asJSON, stay bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "enrol --config FILE",
		Short: "Enrol a device at its MEF and attach it to its MAF",
		Long: `Enrol a device at its MEF and attach it to its MAF.

A device that has a usable credential attaches with it, without the MEF. The
command prints identifiers and the time of expiry, and never a key.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := readEnroleeConfig(file)
			if err != nil {
				return err
			}
			device, closeDevice, err := newEnrolee(config, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer func() { _ = closeDevice() }()
			if stay {
				return maintain(cmd.Context(), device, cmd.OutOrStdout(), asJSON)
			}
			attachment, err := attach(cmd.Context(), device, renew, wait)
			if err != nil {
				return err
			}
			return errors.Join(printCredential(cmd.OutOrStdout(), attachment.Credential, asJSON), attachment.Close())
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&renew, "renew", false, "enrol anew even if the device has a usable credential")
	cmd.Flags().BoolVar(&stay, "stay", false, "keep the device enrolled until SIGTERM, enrolling again before expiry")
	cmd.Flags().DurationVar(&wait, "wait", 0, "try again for this long while the other side does not answer")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// attach repeats what fails for want of an answer, until its time is over. It
// enrols anew once: to a MEF, a device that enrols again and again looks like many.
func attach(ctx context.Context, device *enrolee.Enrolee, renew bool, wait time.Duration) (*enrolee.Attachment, error) {
	const pause = 500 * time.Millisecond
	for until := time.Now().Add(wait); ; {
		attachment, err := attachOnce(ctx, device, &renew)
		if err == nil || exitCode(err) != exitUnreachable || !time.Now().Before(until) {
			return attachment, err
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

func attachOnce(ctx context.Context, device *enrolee.Enrolee, renew *bool) (*enrolee.Attachment, error) {
	if *renew {
		if _, err := device.Enrol(ctx); err != nil {
			return nil, err
		}
		*renew = false
	}
	return device.Ensure(ctx)
}

// newEnrolee assembles a device with its keyring. It tells in notes what has become
// of the MEF's commands.
func newEnrolee(config *enroleeConfig, notes io.Writer) (*enrolee.Enrolee, func() error, error) {
	keys, err := keyring.Open(config.Credentials.Path, config.Credentials.RootKey)
	if err != nil {
		return nil, nil, err
	}
	device, closeDevice, err := newEnroleeWith(config, notes, keys)
	if err != nil {
		return nil, nil, errors.Join(err, keys.Close())
	}
	return device, func() error { return errors.Join(keys.Close(), closeDevice()) }, nil
}

// newEnroleeWith assembles a device, which checks its configuration. The caller
// keeps the keyring.
func newEnroleeWith(config *enroleeConfig, notes io.Writer, keys enrolee.Keyring) (*enrolee.Enrolee, func() error, error) {
	var identity *tls.Certificate
	var kpm muster.Kpm
	var err error
	if config.Kpm.ID.IsZero() {
		identity, err = config.Identity.load()
	} else {
		kpm, err = keyring.ReadKpm(config.Kpm.Path, config.Kpm.RootKey, config.Kpm.ID)
	}
	if err != nil {
		return nil, nil, err
	}
	anchors, err := readCertificates(config.MEF.Anchors)
	if err != nil {
		return nil, nil, err
	}
	wire, err := primitive.NewWire(primitive.WireConfig{})
	if err != nil {
		return nil, nil, err
	}
	dial, err := dialer.New(dialer.Config{
		Identity: identity, KpmID: config.Kpm.ID, Kpm: kpm, MEF: config.MEF.FQDN, MEFAddress: config.MEF.Address, MEFAnchors: anchors,
		MEFOverUDP: config.MEF.Transport == overDTLS, Profile: config.Profile,
		MAF: config.MAF.FQDN, MAFAddress: config.MAF.Address, MAFOverTCP: config.MAF.Transport == overTLS,
		Timeout: config.Handshake.Timeout, MTU: config.Handshake.MTU, NoCBC: config.Handshake.NoCBC,
		PSKSuites: config.Handshake.pskSuites(), RefuseMACThenEncrypt: config.Handshake.RefuseMACThenEncrypt, Header: passTrace,
	})
	if err != nil {
		return nil, nil, configErrorf("%v", err)
	}
	tracer, err := config.Tracing.tracer("muster-enrolee", newLogger(notes))
	if err != nil {
		return nil, nil, err
	}
	device, err := enrolee.New(enrolee.Config{
		EnroleeID: config.EnroleeID, MEF: config.MEF.FQDN, MAF: config.MAF.FQDN, AdminFQDN: config.AdminFQDN,
		Labels: config.Labels, Derivation: config.Derivation, Wire: wire, Unconfirmed: config.Unconfirmed,
		Executor: config.Commands.executor(notes), Exchanged: tellExchange(notes),
		Now: time.Now, Sleep: sleep, Rand: rand.Float64,
	}, traceDialer(dial, tracer), keys)
	if err != nil {
		return nil, nil, errors.Join(configErrorf("%v", err), tracer.Close())
	}
	return device, tracer.Close, nil
}

// maintain prints a line for each attempt until the command is told to stop.
func maintain(ctx context.Context, device *enrolee.Enrolee, out io.Writer, asJSON bool) error {
	err := device.Maintain(ctx, func(e enrolee.Event) {
		if e.Err != nil {
			fmt.Fprintf(out, "%s; next attempt in %s\n", e.Err, e.Wait.Round(time.Second))
			return
		}
		_ = printCredential(out, e.Credential, asJSON)
	})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// A printedCredential is what a device tells of its credential.
type printedCredential struct {
	KeID    string `json:"keID"`
	KmID    string `json:"kmID"`
	MAF     string `json:"maf"`
	Expires string `json:"expires"`
}

func printCredential(out io.Writer, c enrolee.Credential, asJSON bool) error {
	p := printedCredential{c.KeID.String(), c.KmID.String(), c.MAF.String(), c.Expires.UTC().Format(time.RFC3339)}
	if asJSON {
		return json.NewEncoder(out).Encode(p)
	}
	_, err := fmt.Fprintf(out, "KeID     %s\nKmID     %s\nMAF      %s\nexpires  %s\n", p.KeID, p.KmID, p.MAF, p.Expires)
	return err
}
