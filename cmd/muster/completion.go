package main

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"muster"
	"muster/cert"
)

// wordsOf returns the values of a flag that takes one of a few.
func wordsOf(cmd *cobra.Command, flag string) []string {
	switch flag {
	case "credential":
		return []string{string(byCertificate), string(byKey)}
	case "flavour":
		return []string{string(muster.FlavourDevice), string(muster.FlavourNodeID), string(muster.FlavourCSEID), string(muster.FlavourAEID), string(muster.FlavourFQDN)}
	case "format":
		return []string{formatCSV, formatLines}
	case "operation":
		return benchOperations
	case "order":
		return []string{"newest"}
	case "profile":
		return []string{cert.ProfileOneM2M.String(), cert.ProfileConstrained.String(), cert.ProfileRFC5280.String()}
	case "reason":
		if cmd.Name() != "revoke" {
			return nil // a text
		}
		return slices.Sorted(maps.Keys(reasons()))
	case "role":
		return roleNames()
	case "times":
		return []string{string(timesByPlace), string(timesRelative), string(timesAbsolute)}
	case "transport":
		offered := []string{string(overTLS), string(overDTLS)}
		if cmd.Name() == "demo" || cmd.Name() == "compare" {
			offered = append(offered, "both")
		}
		return offered
	case "usage":
		return []string{cert.UsageClient.String(), cert.UsageServer.String()}
	}
	return nil
}

// Placeholders that stand for files and folders in usage lines and flags.
var (
	filePlaces   = []string{"FILE", "LIST", "BACKUP", "LEFTOVER", "FROM", "TO", "PEM", "PREFIX"}
	folderPlaces = []string{"DIR"}
)

var argumentPlace = regexp.MustCompile(`^\[?([A-Z]+)\]?(\.\.\.)?$`)

// completeAll gives the commands below cmd what a shell offers after them: by the
// placeholder of an argument or flag, files or folders, or by the name of a flag
// its words. Else it offers nothing, rather than any file.
func completeAll(cmd *cobra.Command) {
	if cmd.Runnable() {
		if cmd.ValidArgsFunction == nil && !cmd.HasSubCommands() {
			cmd.ValidArgsFunction = cobra.FixedCompletions(nil, completionOf(argumentOf(cmd.Use)))
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) { completeFlag(cmd, f) })
		cmd.InheritedFlags().VisitAll(func(f *pflag.Flag) { completeFlag(cmd, f) })
	}
	for _, below := range cmd.Commands() {
		completeAll(below)
	}
}

// completeFirst offers words for the first argument, and nothing for the others.
func completeFirst(words ...string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			words = nil
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// argumentOf returns the last placeholder of a usage line that is not a flag's.
func argumentOf(use string) (place string) {
	fields := strings.Fields(use)
	for i, field := range fields {
		if found := argumentPlace.FindStringSubmatch(field); found != nil && !strings.Contains(fields[max(i-1, 0)], "--") {
			place = found[1]
		}
	}
	return place
}

func completionOf(place string) cobra.ShellCompDirective {
	switch {
	case slices.Contains(filePlaces, place):
		return cobra.ShellCompDirectiveDefault
	case slices.Contains(folderPlaces, place):
		return cobra.ShellCompDirectiveFilterDirs
	}
	return cobra.ShellCompDirectiveNoFileComp
}

func completeFlag(cmd *cobra.Command, f *pflag.Flag) {
	place, _ := pflag.UnquoteUsage(f)
	offered, directive := wordsOf(cmd, f.Name), completionOf(place)
	if f.Name == "config" {
		offered, directive = []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
	}
	// It fails only for a flag that is completed already.
	_ = cmd.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(offered, directive))
}
