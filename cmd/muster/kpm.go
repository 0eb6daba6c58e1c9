package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/enrolee/keyring"
	"muster/mef"
)

// Bounds of a list of keys.
const (
	maxKpmLine     = 1024 // octets
	maxKpms        = 100_000
	maxKpmProblems = 20 // told of one list
)

func newKpmCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kpm",
		Short: "Bring pre-provisioned keys to a MEF or a device",
		Long: `Bring pre-provisioned keys to a MEF or a device.

A list of keys has one key a line, as CSV under the header kpm_id,kpm or as JSON
objects with these two members. A kpm is 64 hexadecimal digits: 32 octets from a
source of randomness. Only its owner may be able to read the file; - stands for
the standard input.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKpmImportCommand(), newKpmSealCommand())
	return cmd
}

func newKpmImportCommand() *cobra.Command {
	var file string
	var list mef.Import
	cmd := &cobra.Command{
		Use:   "import --config FILE LIST",
		Short: "Import a list of keys into the store of a MEF: all of them or none",
		Long: `Import a list of keys into the store of a MEF: all of them or none. The MEF must
not be running if its store is a file.

Each KpmID is one that an instruction names. A key that is there already is left
alone. A new KpmID of an Enrolee lets its older keys end when the new one is used,
and after kpm_overlap at the latest. Another key under the same KpmID is refused,
unless --replace puts it in the place of the first at once.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := readMEFConfig(file)
			if err != nil {
				return err
			}
			keys, err := readKpmList(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			done, err := importKpms(cmd.Context(), config, keys, list)
			if err != nil {
				return err
			}
			word := "imported"
			if list.DryRun {
				word = "would be imported"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d %s, %d replaced, %d unchanged\n", done.Added, word, done.Replaced, done.Unchanged)
			return err
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&list.DryRun, "dry-run", false, "check everything and change nothing")
	cmd.Flags().BoolVar(&list.Replace, "replace", false, "let another key under a known KpmID replace that at once")
	return cmd
}

func newKpmSealCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "seal --config FILE LIST",
		Short: "Seal a device's key from a list into the file that its configuration names",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := readEnroleeConfig(file)
			if err != nil {
				return err
			}
			keys, err := readKpmList(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			for _, key := range keys {
				if key.id == config.Kpm.ID {
					return keyring.WriteKpm(config.Kpm.Path, config.Kpm.RootKey, key.id, key.kpm)
				}
			}
			return configErrorf("%s: no key of %q, which %s names", args[0], config.Kpm.ID, file)
		},
	}
	configFlag(cmd, &file)
	return cmd
}

// A listedKpm is a line of a list.
type listedKpm struct {
	id   muster.KpmID
	kpm  muster.Kpm
	from string // file:line
}

// importKpms gives the keys of a list to the store of a MEF.
func importKpms(ctx context.Context, config *mefConfig, keys []listedKpm, list mef.Import) (mef.Imported, error) {
	owners := map[muster.KpmID]muster.EnroleeID{}
	for _, in := range config.Instructions {
		for _, id := range in.KpmIDs {
			owners[id] = in.EnroleeID
		}
	}
	var wrong problems
	now := time.Now()
	for _, key := range keys {
		owner, ok := owners[key.id]
		if !ok {
			wrong.add(key.from, "no instruction of %s names %s", config.file, key.id)
			continue
		}
		list.Kpms = append(list.Kpms, mef.ProvisionedKpm{KpmID: key.id, EnroleeID: owner, Kpm: key.kpm, Created: now})
	}
	if err := wrong.err(); err != nil {
		return mef.Imported{}, err
	}
	list.Overlap = config.KpmOverlap
	store, err := openStore(ctx, config.Store)
	if err != nil {
		return mef.Imported{}, err
	}
	defer func() { _ = store.Close() }()
	done, err := store.ImportKpms(ctx, list)
	for _, i := range done.Conflicts {
		wrong.add(keys[i].from, "%s is kept with another key, or was given up; a new KpmID, or --replace for a key in use, is the way", keys[i].id)
	}
	if refused := wrong.err(); refused != nil {
		return mef.Imported{}, refused
	}
	return done, err
}

// problems are what is wrong with the lines of a list.
type problems struct {
	told  []string
	count int
}

func (p *problems) add(from, format string, args ...any) {
	if p.count++; p.count <= maxKpmProblems {
		p.told = append(p.told, from+": "+fmt.Sprintf(format, args...))
	}
}

func (p *problems) err() error {
	if p.count == 0 {
		return nil
	}
	if more := p.count - len(p.told); more > 0 {
		p.told = append(p.told, fmt.Sprintf("and %d more", more))
	}
	return configErrorf("nothing was imported:\n%s", strings.Join(p.told, "\n"))
}

// readKpmList reads a whole list. What is wrong is told with its lines, without a
// word of what stands there: it may be a key in the wrong place.
func readKpmList(path string, stdin io.Reader) ([]listedKpm, error) {
	in := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, configErrorf("%v", err)
		}
		defer func() { _ = file.Close() }()
		info, err := file.Stat()
		if err != nil {
			return nil, configErrorf("%v", err)
		}
		if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 {
			return nil, configErrorf("%s has the mode %s: others than its owner can read the keys", path, mode)
		}
		in = file
	}
	return parseKpmList(path, in)
}

func parseKpmList(path string, in io.Reader) ([]listedKpm, error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, maxKpmLine), maxKpmLine)
	var keys []listedKpm
	var wrong problems
	parse, number := parseKpmJSON, 0
	ids, octets := map[muster.KpmID]string{}, map[muster.Digest]string{}
	for lines.Scan() {
		number++
		line, from := bytes.TrimSpace(lines.Bytes()), fmt.Sprintf("%s:%d", path, number)
		switch {
		case number == 1 && strings.ReplaceAll(string(line), " ", "") == kpmHeader:
			parse = parseKpmCSV
			continue
		case len(line) == 0:
			continue
		case number == 1 && line[0] != '{':
			return nil, configErrorf("%s: a list begins with the header %s or with a JSON object", from, kpmHeader)
		case len(keys) == maxKpms:
			return nil, configErrorf("%s: more than %d keys in one list", from, maxKpms)
		}
		key, err := parse(line)
		if err != nil {
			wrong.add(from, "%v", err)
			continue
		}
		key.from = from
		digest := muster.DigestOf(key.kpm.Reveal())
		if first := ids[key.id]; first != "" {
			wrong.add(from, "the KpmID stands in %s already", first)
		}
		if first := octets[digest]; first != "" {
			wrong.add(from, "the key stands in %s already: each device has its own", first)
		}
		ids[key.id], octets[digest] = from, from
		keys = append(keys, key)
	}
	if err := lines.Err(); err != nil {
		wrong.add(fmt.Sprintf("%s:%d", path, number+1), "%v", err)
	}
	if err := wrong.err(); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, configErrorf("%s: no key in it", path)
	}
	return keys, nil
}

const kpmHeader = "kpm_id,kpm"

func parseKpmCSV(line []byte) (listedKpm, error) {
	fields, err := csv.NewReader(bytes.NewReader(line)).Read()
	if err != nil || len(fields) != 2 {
		return listedKpm{}, errors.New("want two fields, kpm_id and kpm")
	}
	return newListedKpm(strings.TrimSpace(fields[0]), strings.TrimSpace(fields[1]))
}

func parseKpmJSON(line []byte) (listedKpm, error) {
	var fields struct {
		ID  string `json:"kpm_id"`
		Kpm string `json:"kpm"`
	}
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if decoder.Decode(&fields) != nil || decoder.InputOffset() != int64(len(line)) {
		return listedKpm{}, errors.New("want one JSON object with the members kpm_id and kpm, both strings")
	}
	return newListedKpm(fields.ID, fields.Kpm)
}

func newListedKpm(id, kpm string) (listedKpm, error) {
	parsed, err := muster.ParseKpmID(id)
	if err != nil {
		return listedKpm{}, errors.New("kpm_id is not 1 to 64 letters, digits, '.', '_' or '-', an at sign and a lower-case FQDN")
	}
	octets, err := hex.DecodeString(kpm)
	if err != nil || len(octets) != muster.KeySize {
		return listedKpm{}, fmt.Errorf("kpm is not %d hexadecimal digits", 2*muster.KeySize)
	}
	defer clear(octets)
	if bytes.Count(octets, octets[:1]) == len(octets) {
		return listedKpm{}, errors.New("kpm is one octet repeated, not a random key")
	}
	key, err := muster.NewKpm(octets)
	return listedKpm{id: parsed, kpm: key}, err
}
