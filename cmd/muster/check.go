package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"muster"
)

func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Work with configurations",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "check FILE...",
		Short: "Check configurations and what they name, and change nothing",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			var errs []error
			for _, file := range files {
				err := checkConfig(file)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", file)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	})
	return cmd
}

// checkConfig tells the kind of a configuration by the keys that only that kind
// has, and does all that the command it is for would do before it opens a store
// or a socket.
func checkConfig(file string) error {
	switch kind, err := kindOf(file); {
	case err != nil:
		return err
	case kind == "mef":
		config, err := readMEFConfig(file)
		if err != nil {
			return err
		}
		_, missing := config.Identity.load()
		status, unreadable := openStatus(config.Status, nil)
		_, err = newMEF(config, nil, status)
		return errors.Join(missing, unreadable, err)
	case kind == "maf":
		config, err := readMAFConfig(file)
		if err != nil {
			return err
		}
		identity, err := config.Identity.load()
		if err != nil {
			return err
		}
		status, unreadable := openStatus(config.Status, nil)
		_, _, err = newMAF(config, nil, steady(identity), status, nil, nil)
		return errors.Join(unreadable, err)
	case kind == "admin":
		config, err := readOperatorConfig(file, operatorConfig{})
		if err != nil {
			return err
		}
		_, err = config.connect("")
		return err
	default:
		config, err := readEnroleeConfig(file)
		if err != nil {
			return err
		}
		_, closeDevice, err := newEnrolee(config, io.Discard)
		if err != nil {
			return err
		}
		return closeDevice()
	}
}

func kindOf(file string) (string, error) {
	octets, err := os.ReadFile(file)
	if err != nil {
		return "", configErrorf("%v", err)
	}
	var keys map[string]yaml.Node
	if err := yaml.Unmarshal(octets, &keys); err != nil {
		return "", configErrorf("%s: %v", file, err)
	}
	has := func(key string) bool { _, ok := keys[key]; return ok }
	switch {
	case has("server"):
		return "admin", nil
	case has("enrolee_id"):
		return "enrolee", nil
	case has("mefs"):
		return "maf", nil
	case has("instructions") || has("mafs"):
		return "mef", nil
	default:
		return "", muster.Refuse(muster.CodeConfiguration,
			"%s: has none of server (an operator), enrolee_id (a device), mefs (a MAF), instructions or mafs (a MEF)", file)
	}
}
