package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"muster/console"
)

// instructionFlags adds the flags of an instruction, whose defaults are what it has.
func instructionFlags(flags *pflag.FlagSet, in *console.Instruction) {
	flags.StringVar(&in.Flavour, "flavour", in.Flavour, "the kind of certificate: device, node-id, cse-id, ae-id, fqdn")
	flags.StringVar(&in.Name, "name", in.Name, "the `NAME` in the certificate")
	flags.StringVar(&in.Pattern, "pattern", in.Pattern, "in place of a name, a `PATTERN` of names, as 0.2.481.1/100.* or *")
	flags.StringSliceVar(&in.Anchors, "anchor", in.Anchors, "a root to pin, by its SHA-256 or as a PEM `FILE`; may stand more than once")
	flags.StringSliceVar(&in.KpmIDs, "kpm-id", in.KpmIDs, "in place of a certificate, a pre-provisioned key with this `ID`; may stand more than once")
	flags.StringVar(&in.EnroleeID, "enrolee", in.EnroleeID, "the Absolute AE-ID or CSE-`ID` of the Enrolee")
	flags.StringVar(&in.Template, "template", in.Template, "in place of an identifier, a `TEMPLATE` of them, as //sp.example/{name}")
	flags.StringSliceVar(&in.Targets, "target", in.Targets, "the `FQDN` of a MAF to enrol for; may stand more than once")
	flags.StringVar(&in.Lifetime, "lifetime", in.Lifetime, "how long a key lives, as 24h, the default")
	flags.StringVar(&in.Status, "status", in.Status, "how certificates are asked after: hard, soft or off; as configured without")
}

// given returns the instruction that flags describe, on top of another.
func given(flags *pflag.FlagSet, in console.Instruction) (console.Instruction, error) {
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	instructionFlags(own, &in)
	var errs []error
	flags.Visit(func(f *pflag.Flag) {
		target := own.Lookup(f.Name)
		if target == nil {
			return
		}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			errs = append(errs, target.Value.(pflag.SliceValue).Replace(list.GetSlice()))
		} else {
			errs = append(errs, target.Value.Set(f.Value.String()))
		}
	})
	for i, anchor := range in.Anchors {
		if len(anchor) == 64 && !strings.ContainsAny(anchor, "./") {
			continue
		}
		root, err := readAnchor(anchor, nil)
		errs = append(errs, err)
		in.Anchors[i] = root.ID
	}
	return in, errors.Join(errs...)
}

// described returns the instruction that a file, if one is named in place of in, and
// flags describe.
func (d *desk) described(file string, in console.Instruction) (_ console.Instruction, err error) {
	if file != "" {
		if in, err = readInstruction(file, d.cmd.InOrStdin()); err != nil {
			return in, err
		}
	}
	return given(d.cmd.Flags(), in)
}

// readAnchor reads one root in PEM.
func readAnchor(path string, stdin io.Reader) (console.Anchor, error) {
	text, err := readInput(path, stdin, maxPEM)
	if err != nil {
		return console.Anchor{}, err
	}
	anchor, err := console.ParseAnchor(string(text))
	if errors.Is(err, console.ErrNoAnchor) {
		return anchor, configErrorf("%s is not one certificate in PEM", path)
	} else if err != nil {
		return anchor, configErrorf("%s: %w", path, err)
	}
	return anchor, nil
}

// readInput reads a file of at most limit octets, or the standard input for "-".
func readInput(path string, stdin io.Reader, limit int64) ([]byte, error) {
	in := stdin
	if path != "-" || stdin == nil {
		file, err := os.Open(path)
		if err != nil {
			return nil, configErrorf("%w", err)
		}
		defer func() { _ = file.Close() }()
		in = file
	}
	octets, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, configErrorf("%s: %w", path, err)
	}
	if int64(len(octets)) > limit {
		return nil, configErrorf("%s: larger than %d octets", path, limit)
	}
	return octets, nil
}

// readInstruction reads an instruction in JSON or YAML, with the members of the
// interface.
func readInstruction(path string, stdin io.Reader) (in console.Instruction, err error) {
	octets, err := readInput(path, stdin, console.MaxBody)
	if err != nil {
		return in, err
	}
	var value map[string]any // JSON is YAML, too
	if err := yaml.Unmarshal(octets, &value); err != nil {
		return in, configErrorf("%s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	text, err := json.Marshal(value)
	if err == nil {
		err = strictly(text, &in)
	}
	if err != nil {
		return in, configErrorf("%s: %w", path, err)
	}
	return in, nil
}

// strictly is decodeOne with errors for who wrote an instruction.
func strictly(text []byte, into any) error {
	err := decodeOne(text, into)
	if err == nil {
		return nil
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		name = strings.Trim(name, `"`)
		return errors.New("there is no member " + name + "; the nearest is " + nearest(name, instructionMembers()))
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

// decodeOne decodes one JSON value and nothing after it, in which nothing may be that
// into does not have.
func decodeOne(text []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("something follows the value")
	}
	return nil
}

func fileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "file", "f", "", "the instruction in JSON or YAML, a `FILE`, or - for the standard input")
}

// onlyInstructions refuses another word where only an instruction makes sense.
func onlyInstructions(word string) error {
	_, err := resourceOf(word, []string{"instructions"})
	return err
}

func (o *operatorFlags) newCreateCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "create instruction (--file FILE | flags)",
		Short: "Create an instruction",
		Long: `Create an instruction, from flags or from a file. One that is there already, and is
the same, is left alone; another one for the same certificates or keys is refused.
An anchor has to be known before an instruction can pin it: muster admin anchor add.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFirst("instruction"),
		RunE: o.at(func(ctx context.Context, d *desk, args []string) error {
			err := onlyInstructions(args[0])
			var in console.Instruction
			if err == nil {
				in, err = d.described(file, in)
			}
			if err != nil {
				return err
			}
			raw, created, err := ask[console.Instruction](ctx, d, call{method: http.MethodPost, path: "/v1/instructions", body: in})
			if err != nil {
				return err
			}
			return d.tell(raw, "instruction %s is in place", printable(created.ID))
		}),
	}
	fileFlag(cmd, &file)
	instructionFlags(cmd.Flags(), new(console.Instruction))
	return cmd
}

func (o *operatorFlags) newReplaceCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "replace instruction ID (--file FILE | flags)",
		Short: "Replace an instruction",
		Long: `Replace an instruction by that in a file, or change what flags say. By what its
Enrolees are known stays the same: for other certificates or keys, create another
instruction. If somebody else changes it in between, nothing is changed.`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeFirst("instruction"),
		RunE: o.at(func(ctx context.Context, d *desk, args []string) error {
			if err := onlyInstructions(args[0]); err != nil {
				return err
			}
			path := "/v1/instructions/" + url.PathEscape(args[1])
			var in console.Instruction
			tag, err := d.do(ctx, call{method: http.MethodGet, path: path}, &in)
			if err == nil {
				in, err = d.described(file, in)
			}
			if err != nil {
				return err
			}
			raw, replaced, err := ask[console.Instruction](ctx, d, call{method: http.MethodPut, path: path, match: tag, body: in})
			if err != nil {
				return err
			}
			return d.tell(raw, "instruction %s is replaced", printable(replaced.ID))
		}),
	}
	fileFlag(cmd, &file)
	instructionFlags(cmd.Flags(), new(console.Instruction))
	return cmd
}

func (o *operatorFlags) newAnchorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "anchor",
		Short: "Add trust anchors that instructions can pin",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "add FILE",
		Short: "Add a trust anchor that instructions can pin",
		Long:  "Add a trust anchor that instructions can pin: one root in PEM. One that is there\nalready is left alone. It is trusted for nothing before an instruction pins it.",
		Args:  cobra.ExactArgs(1),
		RunE: o.at(func(ctx context.Context, d *desk, args []string) error {
			anchor, err := readAnchor(args[0], d.cmd.InOrStdin())
			if err != nil {
				return err
			}
			raw, added, err := ask[console.Anchor](ctx, d, call{method: http.MethodPost, path: "/v1/anchors", body: console.AnchorOrder{PEM: anchor.PEM}})
			if err != nil {
				return err
			}
			if added.ID != anchor.ID {
				return d.nonsense("it added another anchor")
			}
			return d.tell(raw, "anchor %s is in place: %s", added.ID, printable(added.Subject))
		}),
	})
	return cmd
}
