package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"muster"
)

func newBenchCompareCommand() *cobra.Command {
	c := &comparison{}
	var via string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Compare the CPU time of an enrolment with that of a library's bare handshake",
		Long: `Compare the CPU time that a server takes for an enrolment with what the bare
handshake of a library takes, and with the cryptographic operations in it.

Every contestant is a server in a process of its own, with the same chains, suite
and group, and meets devices that are new each time. They take turns, again and again, and the
ratios are taken within each round, so that what else the machine does falls on
all of them. An enrolment is the handshake with certificates on both sides, the
export and the record on disk; confirmed, the device has asked and knows of it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.notes = cmd.ErrOrStderr()
			c.transports = []transport{transport(via)}
			if via == "both" {
				c.transports = []transport{overTLS, overDTLS}
			}
			if err := c.check(); err != nil {
				return err
			}
			report, err := c.run(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(report)
			}
			return report.print(cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&via, "transport", "both", "tls, dtls or both")
	flags.IntVar(&c.concurrency, "concurrency", 32, "how many devices are under way at once")
	flags.IntVar(&c.rounds, "rounds", 7, "how often each contestant has its turn")
	flags.DurationVar(&c.turn, "turn", 2*time.Second, "how long a turn lasts")
	flags.StringVar(&c.profiles, "profiles", "", "write CPU profiles of the servers, for go tool pprof, into this folder, a `DIR`")
	flags.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// A comparison is contestants that take turns.
type comparison struct {
	transports  []transport
	concurrency int
	rounds      int
	turn        time.Duration
	profiles    string
	notes       io.Writer
}

func (c *comparison) check() error {
	switch {
	case slices.ContainsFunc(c.transports, func(t transport) bool { return t != overTLS && t != overDTLS }):
		return muster.Refuse(muster.CodeUsage, "--transport is tls, dtls or both")
	case c.concurrency < 1 || c.concurrency > maxBenchDevices:
		return muster.Refuse(muster.CodeUsage, "--concurrency is from 1 to %d", maxBenchDevices)
	case c.rounds < 1 || c.turn <= 0:
		return muster.Refuse(muster.CodeUsage, "--rounds and --turn are positive")
	}
	return nil
}

// What is compared, beside the libraries by themselves.
const (
	contestantEnrolment  = "enrolment"
	contestantConfirmed  = "enrolment, confirmed"
	contestantOpenSSL    = "openssl s_server"
	contestantPrimitives = "primitives"
)

// A contestant is a server, what devices do with it, and what that has cost.
type contestant struct {
	Transport transport `json:"transport"`
	Name      string    `json:"name"`
	// Rounds is the CPU time of the server for each operation, in microseconds, in
	// each round.
	Rounds []float64 `json:"rounds_us"`
	// Failed is how many operations have failed in all rounds. What they have cost is
	// in the figures of those that succeeded.
	Failed int `json:"failed"`

	server     *child
	records    bool // the server says what it has stored
	operations []operation
}

func (c *comparison) run(ctx context.Context) (*comparisonReport, error) {
	dir, err := os.MkdirTemp("", "muster-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	report := &comparisonReport{Concurrency: c.concurrency}
	for _, via := range c.transports {
		lab, err := newBenchLab(filepath.Join(dir, string(via)))
		if err != nil {
			return nil, err
		}
		if err := c.over(ctx, via, lab, report); err != nil {
			return nil, err
		}
	}
	report.judge()
	return report, nil
}

// over lets all contestants of a transport take turns.
func (c *comparison) over(ctx context.Context, via transport, lab *laboratory, report *comparisonReport) error {
	contestants, stop, err := c.contestants(ctx, via, lab)
	defer stop()
	if err != nil {
		return err
	}
	for _, contestant := range contestants { // the first turn warms up
		if err := contestant.take(ctx, c.turn); err != nil {
			return fmt.Errorf("%s over %s: %w", contestant.Name, via, err)
		}
		contestant.Rounds, contestant.Failed = nil, 0
	}
	least := contestant{Transport: via, Name: contestantPrimitives}
	for n := range c.rounds {
		fmt.Fprintf(c.notes, "%s: round %d of %d\n", strings.ToUpper(string(via)), n+1, c.rounds)
		for _, contestant := range contestants {
			if err := contestant.take(ctx, c.turn); err != nil {
				return fmt.Errorf("%s over %s: %w", contestant.Name, via, err)
			}
		}
		us, err := primitives()
		if err != nil {
			return err
		}
		least.Rounds = append(least.Rounds, us)
	}
	for _, contestant := range contestants {
		report.Contestants = append(report.Contestants, *contestant)
	}
	report.Contestants = append(report.Contestants, least)
	return nil
}

// An entrant is a server to start, and the names of the contestants that it makes.
type entrant struct {
	names     []string
	port      uint16
	program   string
	arguments []string
}

// bareLibraries are what an enrolment is measured against over each transport.
var bareLibraries = map[transport]string{overTLS: bareTLS, overDTLS: bareDTLS}

func (c *comparison) entrants(via transport, lab *laboratory) ([]entrant, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var ports [2]uint16
	for n := range ports {
		if ports[n], err = quietPort(); err != nil {
			return nil, err
		}
	}
	library := bareLibraries[via]
	all := []entrant{{[]string{library}, ports[0], self, c.profiled(via, "bare",
		"bench", "bare", library, "--lab", lab.Dir, "--listen", fmt.Sprintf("127.0.0.1:%d", ports[0]))}}
	if openssl, err := exec.LookPath("openssl"); via == overTLS && err == nil {
		all = append(all, entrant{[]string{contestantOpenSSL}, ports[1], openssl, opensslArguments(lab, ports[1])})
	}
	return append(all, entrant{[]string{contestantEnrolment, contestantConfirmed}, lab.mefPort, self,
		c.profiled(via, "mef", "mef", "--config", lab.path("mef.yaml"))}), nil
}

// profiled has a command of this program write a profile, if that is wanted.
func (c *comparison) profiled(via transport, name string, command ...string) []string {
	if c.profiles == "" {
		return command
	}
	return append([]string{"bench", "watched", filepath.Join(c.profiles, fmt.Sprintf("%s-%s.pprof", via, name))}, command...)
}

// contestants starts the servers of a transport. The caller calls stop even where
// it returns an error.
func (c *comparison) contestants(ctx context.Context, via transport, lab *laboratory) (all []*contestant, stop func(), err error) {
	var servers []*child
	stop = func() {
		for _, server := range servers {
			server.stop()
		}
	}
	entrants, err := c.entrants(via, lab)
	if err != nil {
		return nil, stop, err
	}
	for _, entrant := range entrants {
		server, err := startChild(ctx, entrant.program, entrant.arguments...)
		if err != nil {
			return nil, stop, err
		}
		servers = append(servers, server)
		for _, name := range entrant.names {
			one := &contestant{Transport: via, Name: name, server: server, records: len(entrant.names) > 1}
			if one.operations, err = c.operations(via, lab, entrant.port, name != contestantConfirmed); err != nil {
				return nil, stop, err
			}
			if err := one.awake(ctx); err != nil {
				return nil, stop, err
			}
			all = append(all, one)
		}
	}
	return all, stop, nil
}

// operations are devices that enrol at a port, as many at once as are to be.
func (c *comparison) operations(via transport, lab *laboratory, port uint16, unconfirmed bool) ([]operation, error) {
	devices, err := newFactory(lab, via)
	if err != nil {
		return nil, err
	}
	devices.config.MEF.Address, devices.config.Unconfirmed = fmt.Sprintf("127.0.0.1:%d", port), unconfirmed
	return enrolments(c.concurrency, func(int) (benchDevice, error) { return devices.device() }).operations, nil
}

// awake waits until the server does what is asked of it.
func (c *contestant) awake(ctx context.Context) error {
	var failed error
	for until := time.Now().Add(benchPatience); time.Now().Before(until); {
		enrol, err := c.operations[0]()
		if err != nil {
			return err
		}
		if failed = enrol(ctx); failed == nil {
			return nil
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s does not answer: %w", c.Name, failed)
}

// take has the contestant's turn: what it takes includes what it still does when
// the devices have gone.
func (c *contestant) take(ctx context.Context, d time.Duration) error {
	if err := c.server.rest(ctx); err != nil {
		return err
	}
	before, stored := c.server.cpu(), c.server.stored.Load()
	sample := load{operations: c.operations}.run(ctx, d)
	succeeded := len(sample.latencies)
	if succeeded == 0 {
		return errors.Join(ctx.Err(), fmt.Errorf("no handshake has succeeded: %v", sample.failures))
	}
	if c.records {
		if err := c.server.awaitStored(ctx, stored+int64(succeeded)); err != nil {
			return err
		}
	}
	if err := c.server.rest(ctx); err != nil {
		return err
	}
	c.Rounds = append(c.Rounds, microseconds(c.server.cpu()-before)/float64(succeeded))
	for _, n := range sample.failures {
		c.Failed += n
	}
	return nil
}
