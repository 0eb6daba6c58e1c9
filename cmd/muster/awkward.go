package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"muster/binding/awkward"
)

const awkwardName = "awkward"

func awkwardFlag(cmd *cobra.Command, seed *uint64) {
	cmd.Flags().Uint64Var(seed, awkwardName, 0, "for tests of clients only: answer late, twice and out of order, as far as the protocol allows, by a `SEED`")
}

// awkwardMode returns nil without the flag. Every seed is one, 0 as well.
func awkwardMode(cmd *cobra.Command, seed uint64) *awkward.Mode {
	if !cmd.Flags().Changed(awkwardName) {
		return nil
	}
	return awkward.New(seed)
}

// awkwardly returns the role, made awkward by a mode that may be nil. Nobody should
// run it without knowing.
func (r role) awkwardly(m *awkward.Mode, log *slog.Logger) role {
	if m == nil {
		return r
	}
	log.Warn("this function is awkward on purpose, for tests of clients; it is not for production", "seed", m.Seed())
	r.handler, r.awkward = m.Handler(r.handler), m
	return r
}
