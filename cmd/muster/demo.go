package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"muster"
	"muster/enrolee"
	"muster/maf"
	"muster/mef"
)

func newDemoCommand() *cobra.Command {
	d := &demo{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run MEF, MAF and devices on this machine and tell every step",
		Long: `Run MEF, MAF and devices on this machine, in a temporary folder, with real
TLS and DTLS over the loopback interface. The first device's way is told step by
step, then the others follow. In a second act the first device shares a key with
one more device through the MAF. The command succeeds only if both ends agree on
every KeID, KmID and KcID.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.out = cmd.OutOrStdout()
			if d.asJSON {
				d.out = io.Discard
			}
			summary, err := d.run(cmd.Context())
			if d.asJSON && summary != nil {
				if err := json.NewEncoder(cmd.OutOrStdout()).Encode(summary); err != nil {
					return err
				}
			}
			return err
		},
	}
	cmd.Flags().IntVar(&d.devices, "devices", 20, "how many devices to enrol")
	cmd.Flags().StringVar(&d.transport, "transport", "both", "how devices reach MEF and MAF: tls, dtls or both in turn")
	credentialFlag(cmd, &d.credential)
	cmd.Flags().BoolVar(&d.asJSON, "json", false, "print nothing but a summary, as one JSON object")
	return cmd
}

// A demo is one run of the three parties in one process.
type demo struct {
	devices    int
	transport  string
	credential credentialKind
	asJSON     bool
	out        io.Writer

	witness witness
}

// A demoSummary ends the demo.
type demoSummary struct {
	Enrolled int     `json:"enrolled"`
	Attached int     `json:"attached"`
	Failed   int     `json:"failed"`
	Shared   int     `json:"shared"` // keys from entity to entity
	Seconds  float64 `json:"seconds"`
}

// A witness notes what MEF and MAF hold, to be compared with what the devices hold.
type witness struct {
	mu       sync.Mutex
	enrolled map[muster.KeID]mef.Enrolment  // guarded by mu
	attached map[muster.KmID]maf.Credential // guarded by mu: sessions under the KmID
}

func (w *witness) observer() observer {
	w.enrolled, w.attached = map[muster.KeID]mef.Enrolment{}, map[muster.KmID]maf.Credential{}
	return observer{
		enrolled: func(e mef.Enrolment) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.enrolled[e.KeID] = e
		},
		attached: func(c maf.Credential, identity string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if identity == c.KmID.String() {
				w.attached[c.KmID] = c
			}
		},
	}
}

// agrees compares a device's credential with what the two functions hold.
func (w *witness) agrees(id muster.EnroleeID, c enrolee.Credential) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	enrolment, ok := w.enrolled[c.KeID]
	if !ok || enrolment.EnroleeID != id {
		return fmt.Errorf("the MEF does not hold %s for %s", c.KeID, id)
	}
	held, ok := w.attached[c.KmID]
	if !ok || held.EnroleeID != id || held.KeID != c.KeID || !held.Km.Equal(c.Km) {
		return fmt.Errorf("the MAF does not hold %s for %s", c.KmID, id)
	}
	return nil
}

func (d *demo) run(ctx context.Context) (*demoSummary, error) {
	transports, ok := map[string][]transport{"tls": {overTLS}, "dtls": {overDTLS}, "both": {overTLS, overDTLS}}[d.transport]
	if !ok || d.devices < 1 || d.devices > maxLabDevices {
		return nil, muster.Refuse(muster.CodeUsage, "demo takes --transport tls, dtls or both, and --devices from 1 to %d", maxLabDevices)
	}
	dir, err := os.MkdirTemp("", "muster-demo-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	begun := time.Now()
	lab := &laboratory{Dir: filepath.Join(dir, "lab"), Devices: d.devices + 1, credential: d.credential, now: begun} // one more for the second act
	if err := lab.write(); err != nil {
		return nil, err
	}
	addresses, stop, err := d.start(ctx, lab)
	if err != nil {
		return nil, err
	}
	summary := d.enrolAll(ctx, lab, addresses, transports)
	if summary.Failed == 0 {
		err = d.shareKey(ctx, lab, addresses, d.tell)
	}
	if err == nil && summary.Failed == 0 {
		summary.Shared++
	}
	err = errors.Join(err, stop())
	summary.Seconds = time.Since(begun).Round(time.Millisecond).Seconds()
	fmt.Fprintf(d.out, "\n%d enrolled, %d attached, %d failed, %d key shared, in %.1f s\n",
		summary.Enrolled, summary.Attached, summary.Failed, summary.Shared, summary.Seconds)
	if summary.Failed > 0 {
		err = errors.Join(fmt.Errorf("%d of %d devices failed", summary.Failed, d.devices), err)
	}
	return summary, err
}

// demoAddresses are where the functions listen.
type demoAddresses struct{ mef, maf map[transport]string }

func addressesOf(s *service) map[transport]string {
	return map[transport]string{overTLS: s.tls.Addr().String(), overDTLS: s.dtls.Addr().String()}
}

// start runs MEF and MAF on free ports.
func (d *demo) start(ctx context.Context, lab *laboratory) (addresses demoAddresses, stop func() error, err error) {
	log := slog.New(slog.DiscardHandler)
	observer := d.witness.observer()
	mefConfig, err := readMEFConfig(lab.path("mef.yaml"))
	if err != nil {
		return addresses, nil, err
	}
	mefConfig.Listen = listenConfig{TLS: "127.0.0.1:0", DTLS: "127.0.0.1:0"}
	mef, err := startMEF(ctx, mefConfig, log, observer)
	if err != nil {
		return addresses, nil, err
	}
	addresses.mef = addressesOf(mef)
	mafConfig, err := readMAFConfig(lab.path("maf.yaml"))
	if err == nil {
		mafConfig.Listen = mefConfig.Listen
		mafConfig.MEFs[0].Address = addresses.mef[overTLS]
		var maf *service
		if maf, err = startMAF(ctx, mafConfig, log, observer); err == nil {
			addresses.maf = addressesOf(maf)
			return addresses, func() error { return errors.Join(maf.stop(), mef.stop()) }, nil
		}
	}
	return addresses, nil, errors.Join(err, mef.stop())
}

// enrolAll tells the first device's way and sends the others after it.
func (d *demo) enrolAll(ctx context.Context, lab *laboratory, addresses demoAddresses, transports []transport) *demoSummary {
	var mu sync.Mutex
	summary := &demoSummary{}
	count := func(err error, enrolled bool) {
		mu.Lock()
		defer mu.Unlock()
		if enrolled {
			summary.Enrolled++
		}
		if err == nil {
			summary.Attached++
		} else {
			summary.Failed++
			fmt.Fprintf(d.out, "\nfailed: %v\n", err)
		}
		d.progress(summary.Attached + summary.Failed)
	}
	one := func(n int, tell teller) {
		device, err := d.device(lab, n, addresses, transports[n%len(transports)])
		if err != nil {
			count(err, false)
			return
		}
		defer func() { _ = device.close() }()
		enrolled, err := device.bootstrap(ctx, &d.witness, tell)
		count(err, enrolled)
	}
	one(0, d.tell)
	var group errgroup.Group
	group.SetLimit(8)
	for n := 1; n < d.devices; n++ {
		group.Go(func() error { one(n, func(string, ...any) {}); return nil })
	}
	_ = group.Wait() // each device counts its own failure
	return summary
}

func (d *demo) tell(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

func (d *demo) progress(done int) {
	if done == 1 {
		fmt.Fprintln(d.out)
	}
	(&progress{d.out, d.devices, "devices"}).show(done)
}

// A demoDevice is one device of the demo.
type demoDevice struct {
	*enrolee.Enrolee
	config *enroleeConfig
	close  func() error
}

func (d *demo) device(lab *laboratory, n int, addresses demoAddresses, via transport) (*demoDevice, error) {
	config, err := readEnroleeConfig(lab.path(lab.deviceFile(n) + ".yaml"))
	if err != nil {
		return nil, err
	}
	config.MEF.Transport, config.MEF.Address = via, addresses.mef[via]
	config.MAF.Transport, config.MAF.Address = via, addresses.maf[via]
	device, closeDevice, err := newEnrolee(config, io.Discard)
	return &demoDevice{device, config, closeDevice}, err
}

// bootstrap is the figure of TS-0003 8.3.2.2, or of 8.3.2.1, from the device's side, and the
// comparison of both ends after it.
func (d *demoDevice) bootstrap(ctx context.Context, w *witness, tell teller) (enrolled bool, err error) {
	c := d.config
	tell("Three parties: the Enrolee %s, the MEF %s, the MAF %s.\n", c.EnroleeID, c.MEF.FQDN, c.MAF.FQDN)
	over := strings.ToUpper(string(c.MEF.Transport)) + " 1.2"
	if c.Kpm.ID.IsZero() {
		tell("1. Configuration. The Enrolee has its certificate from the factory, and the name and root of its MEF.")
		tell("   The MEF has an instruction: the certificate's name and root, the Enrolee-ID, the target MAF, a lifetime of Ke.")
		tell("2. Bootstrap Security Handshake: %s with the MEF at %s, certificates on both sides.", over, c.MEF.Address)
	} else {
		tell("1. Configuration. The Enrolee has a key from the factory, Kpm, and its identifier KpmID = %s.", c.Kpm.ID)
		tell("   The MEF has both too, sealed, and an instruction: the KpmID, the Enrolee-ID, the target MAF, a lifetime of Ke.")
		tell("2. Bootstrap Security Handshake: %s with the MEF at %s, psk_identity = KpmID, psk = Kpm.", over, c.MEF.Address)
	}
	credential, err := d.Enrol(ctx)
	if err != nil {
		return false, err
	}
	tell("   Each side knows the other. Both exported Ke (in the seed text: Kte); no secret crossed the wire.")
	tell("   KeID   %s", credential.KeID)
	tell("   The MEF had stored the enrolment before it answered.")
	tell("3. Key generation. The Enrolee derived Km (Kmm) from Ke and the MAF-ID, and forgot Ke.")
	tell("4. Handshake with the MAF at %s: %s, psk_identity = KeID, psk = Km.", c.MAF.Address, over)
	attachment, err := d.Attach(ctx)
	if err != nil {
		return true, err
	}
	credential = attachment.Credential
	tell("   The MAF did not know the KeID. Inside this handshake it fetched Km, the Enrolee-ID and the lifetime from the MEF.")
	tell("5. MAF Client Registration. The MAF registered the Enrolee and assigned")
	tell("   KmID   %s", credential.KmID)
	tell("   expires %s", credential.Expires.UTC().Format(time.RFC3339))
	tell("6. Handshake with psk_identity = KmID succeeded. From now on the KeID is refused, and the MEF has no part.")
	if err := errors.Join(w.agrees(c.EnroleeID, credential), attachment.Close()); err != nil {
		return true, err
	}
	tell("   Enrolee, MEF and MAF hold the same KeID and KmID.")
	return true, nil
}
