package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"muster"
)

// maxBenchDevices bounds how many devices are under way at once: a function takes no
// more handshakes from one network.
const maxBenchDevices = maxFromNetwork

func newBenchCommand() *cobra.Command {
	b := &bench{}
	var via, plot string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure enrolments, attachments or retrievals of keys",
		Long: `Measure enrolments, attachments or retrievals of keys.

MEF and MAF run as processes of their own on this machine, with their stores in a
temporary folder, so that their CPU time stands apart from that of the devices.
Devices are new each time, and keep their keys in memory.

  enrolment      a handshake with certificates, the export, the record on disk, and
                 the request by which the device knows of it
  attachment     the first of an enrolment: a handshake under the KeID, for which the
                 MAF fetches the key from the MEF, the registration, and a handshake
                 under the KmID; enrolments for it are made before each run
  re-attachment  a handshake under a known KmID
  retrieval      of a registered key by a target of it, over a session that is open

Without --rate, each of --concurrency devices begins again as soon as it has ended.
With --rate, operations begin at that rate whether or not earlier ones have ended,
and latency counts from the intended begin: what waits behind a stall is not left out.

With --config, once for each device, devices, MEF and MAF are those of the configurations
that muster enrol reads, wherever they are. The CPU time and the memory of such servers
are unknown; the devices enrol again and again, and their files stay as they are. Before
each attachment its device enrols, which counts as the client's CPU time, but not as
latency. Retrievals need one more device, which registers the key.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.via, b.notes = transport(via), cmd.ErrOrStderr()
			if err := b.check(); err != nil {
				return err
			}
			report, err := b.run(cmd.Context())
			if err == nil && plot != "" {
				err = os.WriteFile(plot, []byte(report.plot()), 0o644)
			}
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(report)
			}
			return report.print(cmd.OutOrStdout())
		},
	}
	cmd.AddCommand(newBenchCompareCommand(), newBenchBareCommand(), newBenchWatchedCommand())
	flags := cmd.Flags()
	flags.StringVar(&b.operation, "operation", opEnrolment, "what to measure: "+strings.Join(benchOperations, ", "))
	flags.StringVar(&via, "transport", "tls", "how devices reach MEF and MAF: tls or dtls")
	flags.IntVar(&b.concurrency, "concurrency", 8, "how many devices take turns; with --rate, how many operations may be under way")
	flags.Float64Var(&b.rate, "rate", 0, "operations that begin in a second; 0 for as many as the devices make")
	flags.DurationVar(&b.duration, "duration", 3*time.Second, "how long one run lasts")
	flags.DurationVar(&b.warmUp, "warm-up", time.Second, "how long operations go on before the first run")
	flags.IntVar(&b.runs, "runs", 3, "how many runs")
	flags.IntVar(&b.sessions, "sessions", 0, "open so many sessions after the runs, and say what memory each takes")
	flags.StringArrayVar(&b.configs, "config", nil, "the configuration `FILE` of a device, for servers elsewhere")
	flags.StringVar(&plot, "svg", "", "plot the distribution of latencies into this `FILE`")
	flags.StringVar(&b.profiles, "profiles", "", "write CPU profiles of the servers, for go tool pprof, into this folder, a `DIR`")
	flags.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// A bench is one measurement.
type bench struct {
	operation   string
	via         transport
	concurrency int
	rate        float64 // operations a second; 0 for a closed loop
	duration    time.Duration
	warmUp      time.Duration
	runs        int
	sessions    int
	configs     []string
	profiles    string
	notes       io.Writer
}

func (b *bench) check() error {
	switch {
	case !slices.Contains(benchOperations, b.operation):
		return muster.Refuse(muster.CodeUsage, "--operation is one of %s", strings.Join(benchOperations, ", "))
	case b.via != overTLS && b.via != overDTLS:
		return muster.Refuse(muster.CodeUsage, "--transport is tls or dtls")
	case b.concurrency < 1 || b.concurrency > maxBenchDevices:
		return muster.Refuse(muster.CodeUsage, "--concurrency is from 1 to %d", maxBenchDevices)
	case !(b.rate >= 0 && b.rate <= 1e6) || b.duration <= 0 || b.warmUp < 0 || b.runs < 1:
		return muster.Refuse(muster.CodeUsage, "--rate is from 0 to 1000000, --duration and --runs are positive, --warm-up is not negative")
	case b.sessions < 0 || b.sessions > 10_000:
		return muster.Refuse(muster.CodeUsage, "--sessions is from 0 to 10000")
	case len(b.configs) > 0 && b.sessions > 0:
		return muster.Refuse(muster.CodeUsage, "with --config, servers are elsewhere, and what memory sessions take there is unknown: leave out --sessions")
	case len(b.configs) > 0 && b.profiles != "":
		return muster.Refuse(muster.CodeUsage, "with --config, servers are elsewhere, and nothing profiles them: leave out --profiles")
	case len(b.configs) == 1 && b.operation == opRetrieval:
		return muster.Refuse(muster.CodeUsage, "retrievals need one --config more than devices that retrieve")
	}
	return nil
}

func (b *bench) run(ctx context.Context) (*benchReport, error) {
	if len(b.configs) > 0 {
		return b.elsewhere(ctx)
	}
	dir, err := os.MkdirTemp("", "muster-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	servers, err := startBenchServers(ctx, filepath.Join(dir, "lab"), b.profiles)
	if err != nil {
		return nil, err
	}
	defer servers.stop()
	devices, err := newFactory(servers.lab, b.via)
	if err != nil {
		return nil, err
	}
	report, err := b.measure(ctx, servers, func(int) (benchDevice, error) { return devices.device() })
	if err == nil && b.sessions > 0 {
		report.Memory, err = b.memory(ctx, servers, devices)
	}
	return report, err
}

// elsewhere measures servers that run already.
func (b *bench) elsewhere(ctx context.Context) (*benchReport, error) {
	var devices []benchDevice
	for _, file := range b.configs {
		config, err := readEnroleeConfig(file)
		if err != nil {
			return nil, err
		}
		config.MEF.Transport, config.MAF.Transport = b.via, b.via
		keys := new(memoryKeyring)
		device, closeDevice, err := newEnroleeWith(config, io.Discard, keys)
		if err != nil {
			return nil, err
		}
		defer func() { _ = closeDevice() }()
		devices = append(devices, benchDevice{Enrolee: device, id: config.EnroleeID, keys: keys})
	}
	if b.concurrency = len(devices); b.operation == opRetrieval {
		b.concurrency-- // the last one registers the key
	}
	return b.measure(ctx, nil, func(n int) (benchDevice, error) { return devices[n], nil })
}

// measure lets devices make the load. The servers are nil if they are elsewhere.
func (b *bench) measure(ctx context.Context, servers *benchServers, source func(n int) (benchDevice, error)) (*benchReport, error) {
	work, err := newWorkload(ctx, b.operation, b.concurrency, servers != nil, source)
	if err != nil {
		return nil, err
	}
	defer work.close()
	if err := b.stock(ctx, work, b.warmUp); err != nil {
		return nil, err
	}
	load{operations: work.operations, rate: b.rate}.run(ctx, b.warmUp)
	report := b.newReport(servers == nil)
	for n := range b.runs {
		if err := b.stock(ctx, work, b.duration); err != nil {
			return nil, err
		}
		sample := new(sample)
		stop := b.progress(n, sample)
		before, begun := servers.cpu(), time.Now()
		load{operations: work.operations, rate: b.rate, into: sample}.run(ctx, b.duration)
		took, taken := time.Since(begun), servers.cpu().sub(before)
		stop()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		report.Runs = append(report.Runs, sample.summary(took, taken))
		report.sample.add(sample)
	}
	report.Failures, report.Histogram = report.sample.failures, report.sample.buckets()
	return report, nil
}

// stock makes ready what a run may use up: what its rate asks for, or more than
// devices of one machine make without one.
func (b *bench) stock(ctx context.Context, work *workload, d time.Duration) error {
	const most = 500 // a second
	if work.stock == nil {
		return nil
	}
	fmt.Fprintln(b.notes, "making enrolments")
	rate := b.rate
	if rate == 0 {
		rate = most
	}
	return work.stock(ctx, int(math.Ceil(rate*d.Seconds())))
}

// progress tells of a run while it goes on, if somebody looks.
func (b *bench) progress(n int, sample *sample) (stop func()) {
	fmt.Fprintf(b.notes, "run %d of %d", n+1, b.runs)
	ended, told := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(told)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for seconds := 1; isTerminal(b.notes); seconds++ {
			select {
			case <-ended:
				return
			case <-tick.C:
				succeeded, failed := sample.counts()
				fmt.Fprintf(b.notes, "\rrun %d of %d: %d s of %v, %d done, %d failed", n+1, b.runs, seconds, b.duration, succeeded, failed)
			}
		}
	}()
	return func() {
		close(ended)
		<-told
		fmt.Fprintln(b.notes)
	}
}

func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
