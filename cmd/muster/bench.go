package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/enrolee"
)

// maxBenchDevices bounds the devices that take turns: the MAF rations the fetches
// of one network, and a burst of that many is let through.
const maxBenchDevices = 128

func newBenchCommand() *cobra.Command {
	b := &bench{}
	var via string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure enrolments or re-attachments against a MEF and a MAF of this machine",
		Long: `Measure enrolments or re-attachments against a MEF and a MAF of this machine.

MEF and MAF run as processes of their own, with their stores in a temporary
folder, so that their CPU time stands apart from that of the devices. An enrolment
ends when the device knows that the MEF has it on disk; a re-attachment is a
handshake under a known KmID and a registration. Devices keep their keys in memory.

Without --rate, each of --concurrency devices begins again as soon as it has ended.
With --rate, operations begin at that rate whether or not earlier ones have ended,
and latency counts from the intended begin: what waits behind a stall is not left out.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.via, b.notes = transport(via), cmd.ErrOrStderr()
			if err := b.check(); err != nil {
				return err
			}
			report, err := b.run(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(report)
			}
			return report.print(cmd.OutOrStdout())
		},
	}
	cmd.AddCommand(newBenchCompareCommand(), newBenchBareCommand(), newBenchProfiledCommand())
	flags := cmd.Flags()
	flags.StringVar(&b.operation, "operation", opEnrolment, "what to measure: enrolment or re-attachment")
	flags.StringVar(&via, "transport", "tls", "how devices reach MEF and MAF: tls or dtls")
	flags.IntVar(&b.concurrency, "concurrency", 8, "how many devices take turns; with --rate, how many operations may be under way")
	flags.Float64Var(&b.rate, "rate", 0, "operations that begin in a second; 0 for as many as the devices make")
	flags.DurationVar(&b.duration, "duration", 3*time.Second, "how long one run lasts")
	flags.DurationVar(&b.warmUp, "warm-up", time.Second, "how long operations go on before the first run")
	flags.IntVar(&b.runs, "runs", 3, "how many runs")
	flags.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// What can be measured.
const (
	opEnrolment    = "enrolment"
	opReattachment = "re-attachment"
)

// A bench is one measurement.
type bench struct {
	operation   string
	via         transport
	concurrency int
	rate        float64 // operations a second; 0 for a closed loop
	duration    time.Duration
	warmUp      time.Duration
	runs        int
	notes       io.Writer
}

func (b *bench) check() error {
	switch {
	case b.operation != opEnrolment && b.operation != opReattachment:
		return muster.Refuse(muster.CodeUsage, "--operation is %s or %s", opEnrolment, opReattachment)
	case b.via != overTLS && b.via != overDTLS:
		return muster.Refuse(muster.CodeUsage, "--transport is tls or dtls")
	case b.concurrency < 1 || b.concurrency > maxBenchDevices:
		return muster.Refuse(muster.CodeUsage, "--concurrency is from 1 to %d", maxBenchDevices)
	case !(b.rate >= 0 && b.rate <= 1e6) || b.duration <= 0 || b.warmUp < 0 || b.runs < 1:
		return muster.Refuse(muster.CodeUsage, "--rate is from 0 to 1000000, --duration and --runs are positive, --warm-up is not negative")
	}
	return nil
}

func (b *bench) run(ctx context.Context) (*benchReport, error) {
	dir, err := os.MkdirTemp("", "muster-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	servers, err := startBenchServers(ctx, filepath.Join(dir, "lab"), b.concurrency)
	if err != nil {
		return nil, err
	}
	defer servers.stop()
	operations, err := b.devices(ctx, servers)
	if err != nil {
		return nil, err
	}
	load := load{operations: operations, rate: b.rate}
	load.run(ctx, b.warmUp)
	report := &benchReport{Operation: b.operation, Transport: b.via, Concurrency: b.concurrency, Rate: b.rate}
	for n := range b.runs {
		fmt.Fprintf(b.notes, "run %d of %d\n", n+1, b.runs)
		server, client, begun := servers.cpu(), cpuOf(os.Getpid()), time.Now()
		sample := load.run(ctx, b.duration)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		report.Runs = append(report.Runs, sample.summary(time.Since(begun), servers.cpu()-server, cpuOf(os.Getpid())-client))
		report.sample.add(sample)
	}
	report.Failures = report.sample.failures
	return report, nil
}

// devices returns what each device does again and again.
func (b *bench) devices(ctx context.Context, servers *benchServers) ([]operation, error) {
	var operations []operation
	for n := range b.concurrency {
		config, err := readEnroleeConfig(servers.lab.path(servers.lab.deviceFile(n) + ".yaml"))
		if err != nil {
			return nil, err
		}
		config.MEF.Transport, config.MAF.Transport = b.via, b.via
		device, _, err := newEnroleeWith(config, io.Discard, new(memoryKeyring))
		if err != nil {
			return nil, err
		}
		attach := func(ctx context.Context) error {
			attachment, err := device.Ensure(ctx)
			if err != nil {
				return err
			}
			return attachment.Close()
		}
		enrol := func(ctx context.Context) error {
			_, err := device.Enrol(ctx)
			return err
		}
		if b.operation == opEnrolment {
			operations = append(operations, enrol)
			continue
		}
		if err := attach(ctx); err != nil {
			return nil, fmt.Errorf("the first attachment of device %d: %w", n+1, err)
		}
		operations = append(operations, attach)
	}
	return operations, nil
}

// A memoryKeyring is what a device holds until the process ends.
type memoryKeyring struct{ kept enrolee.Credentials }

func (k *memoryKeyring) Load(context.Context) (enrolee.Credentials, error) { return k.kept, nil }

func (k *memoryKeyring) Save(_ context.Context, c enrolee.Credentials) error {
	k.kept = c
	return nil
}

// A benchReport is what a bench has found.
type benchReport struct {
	Operation   string              `json:"operation"`
	Transport   transport           `json:"transport"`
	Concurrency int                 `json:"concurrency"`
	Rate        float64             `json:"rate,omitempty"` // intended, in operations a second
	Runs        []benchRun          `json:"runs"`
	Failures    map[muster.Code]int `json:"failures"` // of all runs, by the code of the refusal; "" for other errors

	sample sample // of all runs
}

// print writes the smallest, middle and largest figure of the runs, and how the
// latencies of all runs are distributed.
func (r *benchReport) print(out io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s over %s, %d devices, %d runs\n\n%-26s%12s%12s%12s\n", r.Operation, strings.ToUpper(string(r.Transport)),
		r.Concurrency, len(r.Runs), "", "min", "median", "max")
	for _, figure := range []struct {
		name string
		of   func(benchRun) float64
	}{
		{"operations/s", func(b benchRun) float64 { return b.PerSecond }},
		{"latency p50, ms", func(b benchRun) float64 { return b.P50 }},
		{"latency p90, ms", func(b benchRun) float64 { return b.P90 }},
		{"latency p99, ms", func(b benchRun) float64 { return b.P99 }},
		{"latency p99.9, ms", func(b benchRun) float64 { return b.P999 }},
		{"server CPU/operation, µs", func(b benchRun) float64 { return b.ServerCPU }},
		{"client CPU/operation, µs", func(b benchRun) float64 { return b.ClientCPU }},
	} {
		var values []float64
		for _, run := range r.Runs {
			values = append(values, figure.of(run))
		}
		slices.Sort(values)
		fmt.Fprintf(&text, "%-26s%12.1f%12.1f%12.1f\n", figure.name, values[0], (values[(len(values)-1)/2]+values[len(values)/2])/2, values[len(values)-1])
	}
	text.WriteString("\n" + r.sample.histogram())
	for code, n := range r.Failures {
		fmt.Fprintf(&text, "failed %d: %s\n", n, orElse(string(code), "other errors"))
	}
	_, err := io.WriteString(out, text.String())
	return err
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
