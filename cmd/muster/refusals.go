package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"muster"
)

// The bounds of what strangers can make a function write down.
const (
	refusalsSuffix    = ".refusals"      // of the file beside the store
	maxRefusalsFile   = 4 << 20          // octets, then it becomes refusalsSuffix.1
	maxRefusalsSecond = 10               // refusals written in one second
	recentRefusals    = 256              // that are remembered, so that
	refusalPause      = 10 * time.Minute // a repeated one is not written again for so long
)

// A refusal is a chain that was refused, without anything secret: what a peer
// sent in the clear, and why it was not enough.
type refusal struct {
	ID          string        `json:"id"`
	Time        time.Time     `json:"time"`
	Code        muster.Code   `json:"code"`
	Detail      string        `json:"detail"`
	Remote      string        `json:"remote"`
	Transport   transport     `json:"transport"`
	Certificate muster.Digest `json:"-"`
	Chain       [][]byte      `json:"chain"` // DER, the leaf first
}

// A refusedChain is the error of a handshake in which a chain was refused.
type refusedChain struct {
	err   error
	chain []*x509.Certificate
	at    time.Time
}

func (r *refusedChain) Error() string { return r.err.Error() }
func (r *refusedChain) Unwrap() error { return r.err }

// A refusalLog writes refusals to a file of bounded size.
type refusalLog struct {
	path, config string

	mu      sync.Mutex
	recent  [recentRefusals]refusal // guarded by mu, as all below; a ring, without chains
	next    int
	second  time.Time
	written int // in that second
}

// newRefusalLog returns a log to a file. The configuration is named in commands.
func newRefusalLog(path, config string) *refusalLog { return &refusalLog{path: path, config: config} }

// note writes down a chain that was refused and returns what the line in the log
// says beside the code: the certificate, and the command that explains.
func (l *refusalLog) note(remote net.Addr, via transport, err error) []any {
	refused, ok := errors.AsType[*refusedChain](err)
	if l == nil || !ok || len(refused.chain) == 0 {
		return nil
	}
	r := refusal{
		Time: refused.at.UTC().Truncate(time.Second), Code: muster.CodeOf(err), Detail: refused.Error(),
		Remote: remote.String(), Transport: via, Certificate: muster.DigestOf(refused.chain[0].Raw),
	}
	for _, c := range refused.chain {
		r.Chain = append(r.Chain, c.Raw)
	}
	attributes := []any{"certificate", r.Certificate.String()}
	switch id, err := l.add(r); {
	case err != nil:
		return append(attributes, "unwritten", err.Error())
	case id == "":
		return append(attributes, "unwritten", "too many refusals")
	default:
		return append(attributes, "refusal", id, "explain", fmt.Sprintf("muster explain --config %s --refusal %s", l.config, id))
	}
}

// add returns the identifier under which the refusal is written, which is that
// of an earlier one if that is the same and not long ago, or "" if there are too
// many to write them all.
func (l *refusalLog) add(r refusal) (id string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, before := range l.recent {
		if before.Certificate == r.Certificate && before.Code == r.Code && r.Time.Sub(before.Time) < refusalPause {
			return before.ID, nil
		}
	}
	if second := r.Time.Truncate(time.Second); !second.Equal(l.second) {
		l.second, l.written = second, 0
	}
	if l.written++; l.written > maxRefusalsSecond {
		return "", nil
	}
	octets := make([]byte, 6)
	rand.Read(octets) // never fails
	r.ID = hex.EncodeToString(octets)
	if err := l.write(r); err != nil {
		return "", err
	}
	r.Chain = nil
	l.recent[l.next] = r
	l.next = (l.next + 1) % len(l.recent)
	return r.ID, nil
}

// write appends one line, and moves a file that is full out of the way first.
func (l *refusalLog) write(r refusal) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if info, err := os.Stat(l.path); err == nil && info.Size()+int64(len(line)) > maxRefusalsFile {
		if err := os.Rename(l.path, l.path+".1"); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(line)
	return errors.Join(err, file.Close())
}

// readRefusals returns what is written beside a store, the oldest first. A line
// that a crash cut short is left out.
func readRefusals(path string) ([]refusal, error) {
	var all []refusal
	for _, name := range []string{path + ".1", path} {
		octets, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, configErrorf("%v", err)
		}
		lines := bufio.NewScanner(bytes.NewReader(octets))
		lines.Buffer(nil, len(octets)+1)
		for lines.Scan() {
			var r refusal
			if json.Unmarshal(lines.Bytes(), &r) == nil && r.ID != "" && len(r.Chain) > 0 {
				r.Certificate = muster.DigestOf(r.Chain[0])
				all = append(all, r)
			}
		}
	}
	return all, nil
}

// findRefusal returns the refusal of an identifier.
func findRefusal(config *mefConfig, id string) (refusal, error) {
	r, ok, err := lookUpRefusal(config.Store.besideStore(config.file, refusalsSuffix), id)
	if err == nil && !ok {
		err = muster.Refuse(muster.CodeUsage, "no refusal %q is kept; muster refusals lists those that are", id)
	}
	return r, err
}

// lookUpRefusal returns the refusal of a file that has an identifier, if one has.
func lookUpRefusal(path, id string) (found refusal, ok bool, err error) {
	all, err := readRefusals(path)
	if err != nil {
		return refusal{}, false, err
	}
	if i := slices.IndexFunc(all, func(r refusal) bool { return r.ID == id }); i >= 0 {
		return all[i], true, nil
	}
	return refusal{}, false, nil
}

func newRefusalsCommand() *cobra.Command {
	var file string
	var asJSON bool
	var last int
	cmd := &cobra.Command{
		Use:   "refusals --config FILE [ID]",
		Short: "List the chains that a MEF refused, or print one of them",
		Long: `List the chains that a MEF refused in handshakes, the newest last, or print one
of them with its certificates. muster explain --refusal ID says what is wrong
with it. The same certificate refused for the same reason is listed once in ten
minutes; a flood of refusals is not kept in full.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := readMEFConfig(file)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				r, err := findRefusal(config, args[0])
				if err != nil {
					return err
				}
				return r.print(cmd.OutOrStdout(), asJSON, true)
			}
			all, err := readRefusals(config.Store.besideStore(config.file, refusalsSuffix))
			if err != nil {
				return err
			}
			for _, r := range all[max(0, len(all)-max(last, 0)):] {
				if err := r.print(cmd.OutOrStdout(), asJSON, false); err != nil {
					return err
				}
			}
			return nil
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line, with the certificates in PEM")
	cmd.Flags().IntVar(&last, "last", recentRefusals, "how many to list")
	return cmd
}

func (r refusal) print(out io.Writer, asJSON, whole bool) error {
	var chain bytes.Buffer
	for _, der := range r.Chain {
		if err := pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return err
		}
	}
	if asJSON {
		return json.NewEncoder(out).Encode(struct {
			refusal
			Certificate string `json:"certificate"`
			Chain       string `json:"chain"`
		}{r, r.Certificate.String(), chain.String()})
	}
	_, err := fmt.Fprintf(out, "%s  %s  %s  %s over %s\n  certificate %s\n  %s\n",
		r.ID, r.Time.Format(time.RFC3339), r.Code, r.Remote, r.Transport, r.Certificate, r.Detail)
	if err == nil && whole {
		_, err = chain.WriteTo(out)
	}
	return err
}
