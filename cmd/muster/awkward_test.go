package main

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"muster/binding/awkward"
)

// Our own clients enrol and attach whatever a MEF and a MAF do within the protocol.
func TestEnroleeSurvivesAwkwardFunctions(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			w.mef.awkward, w.maf.awkward = awkward.New(seed), awkward.New(seed+100)
			w.startMEF()
			w.startMAF()
			for n, via := range []transport{overTLS, overDTLS} {
				device := w.device(w.deviceConfig(n, via))
				for range 2 { // under the KeID, and under the KmID
					attachment, err := device.Ensure(t.Context())
					if err != nil {
						t.Fatalf("over %s: %v", via, err)
					}
					must(t, attachment.Close())
				}
			}
			for _, log := range []*journal{w.mefLog, w.mafLog} {
				if !slices.ContainsFunc(log.all(), func(e entry) bool { return e.Level == slog.LevelWarn && strings.Contains(e.Msg, "awkward") }) {
					t.Errorf("nothing warns of the awkward mode:\n%s", log)
				}
			}
		})
	}
}

func TestAwkwardFlag(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args []string
		want bool
		seed uint64
	}{{nil, false, 0}, {[]string{"--awkward", "0"}, true, 0}, {[]string{"--awkward=7"}, true, 7}} {
		for _, cmd := range []*cobra.Command{newMEFCommand(), newMAFCommand()} {
			must(t, cmd.ParseFlags(tc.args))
			seed, err := cmd.Flags().GetUint64("awkward")
			must(t, err)
			if mode := awkwardMode(cmd, seed); (mode != nil) != tc.want || tc.want && mode.Seed() != tc.seed {
				t.Errorf("%s %v: %v", cmd.Name(), tc.args, mode)
			}
		}
	}
}
