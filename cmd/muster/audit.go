package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"muster"
	"muster/audit"
	"muster/binding"
	"muster/primitive"
)

// An auditConfig is where a function keeps its audit log.
type auditConfig struct {
	// File is the log, made if it does not exist; none by default.
	File string `yaml:"file"`
	// Syslog is a server that gets each entry too, as unixgram:///dev/log, udp://HOST:514 or tcp://HOST:601.
	Syslog string `yaml:"syslog"`
	// Store is a name under which each entry is kept in the function's store too, one for each process that shares it; none by default.
	Store string `yaml:"store"`
	// FailClosed answers no peer whose act could not be written down; else the log of the program tells of the failure.
	FailClosed bool `yaml:"fail_closed"`
}

// auditedRefusals is how many refusals are audited in one second; strangers decide
// how many there are.
const auditedRefusals = 10

// A trail writes a function's acts to its audit log, and lets operators watch them.
// A nil trail does neither.
type trail struct {
	log    *audit.Log  // may be nil
	live   *happenings // may be nil
	closed bool        // fails closed
	errors *slog.Logger

	mu      sync.Mutex
	second  time.Time // guarded by mu, as the next two
	refused int       // in that second
	omitted int       // since the last refusal that was written
}

// openTrail opens the trail of a function, if its configuration wants one.
func (s *service) openTrail(config auditConfig, admin adminConfig, writer muster.FQDN, store audit.Store) error {
	t, err := config.open(writer, s.log, store)
	if err != nil {
		return err
	}
	if admin.Listen != "" {
		if t == nil {
			t = &trail{errors: s.log}
		}
		t.live = newHappenings()
	}
	if s.trail = t; t != nil && t.log != nil {
		s.closers = append(s.closers, t.close)
	}
	return nil
}

// open opens the log, and returns nil if there is to be none.
func (c auditConfig) open(writer muster.FQDN, log *slog.Logger, store audit.Store) (*trail, error) {
	if c.File == "" {
		if c != (auditConfig{}) {
			return nil, configErrorf("audit lacks file")
		}
		return nil, nil
	}
	config := audit.Config{Path: c.File, Writer: writer.String()}
	if c.Syslog != "" {
		sink, err := audit.NewSyslog(c.Syslog)
		if err != nil {
			return nil, configErrorf("audit.syslog: %w", err)
		}
		config.Sinks = []audit.Sink{sink}
	}
	if c.Store != "" {
		config.Sinks = append(config.Sinks, audit.NewStoreSink(store, c.Store))
	}
	opened, err := audit.Open(config)
	if errors.Is(err, audit.ErrBroken) {
		return nil, muster.Refuse(muster.CodeAuditBroken, "audit.file: %w", err)
	} else if err != nil {
		return nil, configErrorf("audit.file: %w", err)
	}
	t := &trail{log: opened, closed: c.FailClosed, errors: log}
	if err := t.write(context.Background(), audit.Entry{Kind: audit.KindStarted}); err != nil {
		return nil, fmt.Errorf("%w, %w", err, opened.Close())
	}
	return t, nil
}

// close writes down the end.
func (t *trail) close() error {
	_ = t.write(context.Background(), audit.Entry{Kind: audit.KindStopped}) // which logs why not
	return t.log.Close()
}

// write returns an error only if the peer is not to be answered.
func (t *trail) write(ctx context.Context, e audit.Entry) error {
	if t == nil {
		return nil
	}
	now := time.Now()
	if e.Kind != audit.KindRefused && e.Kind != audit.KindFetched { // which are counted, written or not
		t.live.count(e.Kind, "", now)
	}
	t.live.tell(e, now)
	if t.log == nil {
		return nil
	}
	err := t.log.Record(ctx, e)
	if err == nil {
		return nil
	}
	t.errors.Error("audit entry not written", "kind", e.Kind, "error", err)
	if !t.closed {
		return nil
	}
	return muster.Refuse(muster.CodeStoreFailed, "audit: %w", err)
}

// refuse writes down a refusal, unless there are too many of them.
func (t *trail) refuse(ctx context.Context, who, what string, err error) {
	now := time.Now()
	t.live.count(audit.KindRefused, muster.CodeOf(err), now)
	t.mu.Lock()
	if now = now.Truncate(time.Second); !now.Equal(t.second) {
		t.second, t.refused = now, 0
	}
	if t.refused++; t.refused > auditedRefusals {
		t.omitted++
		t.mu.Unlock()
		return
	}
	if t.omitted > 0 {
		what = fmt.Sprintf("%s; %d refusals before it were too many to write", what, t.omitted)
		t.omitted = 0
	}
	t.mu.Unlock()
	_ = t.write(ctx, audit.Entry{Kind: audit.KindRefused, Who: who, What: what, Rule: err.Error(), Code: muster.CodeOf(err)})
}

// audited returns the role, which also writes down what it refuses, changes and
// hands out.
func (r role) audited(t *trail) role {
	if t == nil {
		return r
	}
	inner := r
	if inner.verify != nil {
		r.verify = func(chain []*x509.Certificate, now time.Time) (muster.Peer, error) {
			peer, err := inner.verify(chain, now)
			if err != nil {
				who := "no certificate"
				if len(chain) > 0 {
					who = "certificate " + muster.DigestOf(chain[0].Raw).String()
				}
				t.refuse(context.Background(), who, "handshake", err)
			}
			return peer, err
		}
	}
	if inner.psk != nil {
		r.psk = func(ctx context.Context, identity string) ([]byte, error) {
			key, err := inner.psk(ctx, identity)
			if err != nil {
				t.refuse(ctx, identity, "psk_identity", err)
			}
			return key, err
		}
	}
	r.established = func(ctx context.Context, s *muster.Session) error {
		err := inner.established(ctx, s)
		if err != nil {
			t.refuse(ctx, partyOf(s), "session", err)
		}
		return err
	}
	r.handler = primitive.HandlerFunc(func(ctx context.Context, s *muster.Session, request *primitive.Request) (*primitive.Response, error) {
		response, err := inner.handler.Serve(ctx, s, request)
		what := fmt.Sprintf("%v %s", request.Operation, request.To)
		if err != nil {
			t.refuse(ctx, partyOf(s), what, err)
			return response, err
		}
		// Reading is written down too: by it a MAF or an entity gets a key.
		kind := audit.KindChanged
		if request.Operation == primitive.Retrieve {
			kind = audit.KindRead
		}
		if err := t.write(ctx, audit.Entry{Kind: kind, Who: partyOf(s), What: what}); err != nil {
			return nil, err
		}
		return response, nil
	})
	if inner.fetch != nil {
		r.fetch = func(ctx context.Context, s *muster.Session, request binding.FetchRequest) (binding.Credential, error) {
			key, err := inner.fetch(ctx, s, request)
			if err != nil {
				t.refuse(ctx, partyOf(s), "fetch of "+request.KeID.String(), err)
				return key, err
			}
			err = t.write(ctx, audit.Entry{Kind: audit.KindFetched, Who: partyOf(s), Enrolee: key.EnroleeID.String(), KeID: request.KeID.String()})
			if err != nil {
				return binding.Credential{}, err
			}
			return key, nil
		}
	}
	return r
}

// partyOf names the peer of a session by what it authenticated with.
func partyOf(s *muster.Session) string {
	if s.Peer.PSKIdentity != "" {
		return s.Peer.PSKIdentity
	}
	return s.Peer.Name.String()
}

func newAuditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Look at an audit log",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAuditVerifyCommand(), newAuditPruneCommand())
	return cmd
}

func newAuditVerifyCommand() *cobra.Command {
	var heads headFlags
	var config string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify [FILE]",
		Short: "Check that an audit log is what was written",
		Long: `Check that an audit log, with the files that its rotation has closed, is what was
written: no entry was changed, removed, put in or moved. Print its head.

That the end was cut off shows only against a head that was kept elsewhere:
--head HEAD demands that the log contains it. Where the oldest files were
archived, --from HEAD says after which entry the rest begins. Exit code 0 means
that all holds, 3 that it does not.

--config takes the log that a function keeps in its store, in place of a file. It
begins after the last entry that muster audit prune removed, which the store knows;
--from HEAD demands that it is the one that you kept. The function must not be
running if its store is a file.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			start, pin, err := heads.parse()
			if err != nil {
				return err
			}
			var visit func(audit.Entry)
			if asJSON {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				visit = func(e audit.Entry) { _ = encoder.Encode(e) }
			}
			if (len(args) == 1) == (config != "") {
				return muster.Refuse(muster.CodeUsage, "%s takes either a file or --config", cmd.CommandPath())
			}
			var head audit.Head
			if config != "" {
				start, head, err = verifyStored(cmd.Context(), config, start, pin, visit)
			} else {
				head, err = audit.Verify(args[0], start, pin, visit)
			}
			if errors.Is(err, audit.ErrBroken) {
				return muster.Refuse(muster.CodeAuditBroken, "%w", err)
			} else if err != nil {
				return configErrorf("%w", err)
			}
			if head == start {
				return muster.Refuse(muster.CodeUsage, "the log has no entry")
			}
			if !asJSON {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "entries %d to %d hold\nhead %s\n", start.Seq+1, head.Seq, head)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "the configuration `FILE` of a function whose store has the log")
	heads.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the entries, one JSON object a line")
	return cmd
}

// verifyStored verifies the log that a function's store has, from its anchor on if from
// is zero. It returns where it began, too.
func verifyStored(ctx context.Context, file string, from, pinned audit.Head, visit func(audit.Entry)) (begun, head audit.Head, err error) {
	err = withAuditStore(ctx, file, func(store audit.Store, name string) error {
		if begun = from; begun == (audit.Head{}) {
			if begun, err = audit.Anchor(ctx, store, name); err != nil {
				return err
			}
		}
		head, err = audit.VerifyStore(ctx, store, name, begun, pinned, visit)
		return err
	})
	return begun, head, err
}

// withAuditStore calls use with the store of a function and the name of its log there.
func withAuditStore(ctx context.Context, file string, use func(store audit.Store, name string) error) error {
	name, err := readAuditStore(file)
	if err != nil {
		return err
	}
	config, err := readStoreConfig(file)
	if err != nil {
		return err
	}
	store, err := openStore(ctx, config)
	if err != nil {
		return err
	}
	return errors.Join(use(store, name), store.Close())
}

// readAuditStore reads the name of the log in the store of a function.
func readAuditStore(file string) (string, error) {
	var config auditConfig
	switch kind, err := kindOf(file); {
	case err != nil:
		return "", err
	case kind == "mef":
		c, err := readMEFConfig(file)
		if err != nil {
			return "", err
		}
		config = c.Audit
	case kind == "maf":
		c, err := readMAFConfig(file)
		if err != nil {
			return "", err
		}
		config = c.Audit
	}
	if config.Store == "" {
		return "", configErrorf("%s: audit has no store", file)
	}
	return config.Store, nil
}

// headFlags say where a log that is verified begins, and what it has to contain.
type headFlags struct{ from, pinned string }

func (h *headFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&h.from, "from", "", "the `HEAD` after which the log begins")
	cmd.Flags().StringVar(&h.pinned, "head", "", "a `HEAD` that the log has to contain")
}

func (h *headFlags) parse() (from, pinned audit.Head, err error) {
	if from, err = parseHead(h.from); err == nil {
		pinned, err = parseHead(h.pinned)
	}
	return from, pinned, err
}

func parseHead(s string) (audit.Head, error) {
	if s == "" {
		return audit.Head{}, nil
	}
	head, err := audit.ParseHead(s)
	if err != nil {
		return head, muster.Refuse(muster.CodeUsage, "%w", err)
	}
	return head, nil
}
