package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"muster"
	"muster/audit"
	"muster/console"
	"muster/mef"
	"muster/revocation"
)

// A ruleKeeper keeps the rules that operators give beside those of the
// configuration, in a file of their own. It implements console.RuleKeeper.
type ruleKeeper struct {
	service  *service
	assemble func(*mefConfig) (role, error)
	slot     *slot
	watched  bool // operators are answered

	// service.reloading guards what is not below mu; anchors are set within Edit only.
	running mefConfig
	anchors anchorCache

	mu         sync.Mutex
	configured console.Rules // guarded by mu
	managed    console.Rules // guarded by mu
}

// maxRules bounds the file of the operators' rules in octets.
const maxRules = 256 << 20

// readManaged reads the file of the operators' rules. One that does not exist yet
// has none.
func readManaged(path string) (rules console.Rules, err error) {
	if path == "" {
		return rules, nil
	}
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return rules, nil
	case err != nil:
		return rules, configErrorf("admin.rules: %v", err)
	case !info.Mode().IsRegular() || info.Size() > maxRules:
		return rules, configErrorf("admin.rules: %s is not a regular file of at most %d octets", path, maxRules)
	case info.Mode().Perm()&0o022 != 0:
		return rules, configErrorf("admin.rules: others may write %s", path)
	}
	octets, err := os.ReadFile(path)
	if err != nil {
		return rules, configErrorf("admin.rules: %v", err)
	}
	if err := decodeOne(octets, &rules); err != nil {
		return rules, configErrorf("admin.rules: %s: %v", path, err)
	}
	return rules, nil
}

// addManaged adds the operators' rules to those of the configuration. The anchors
// are known by their digests.
func addManaged(rules *mef.Rules, managed console.Rules, anchors anchorCache, status *statusSource) error {
	if err := anchors.addManaged(managed.Anchors); err != nil {
		return err
	}
	for _, in := range managed.Instructions {
		config, err := instructionOf(in)
		if err != nil {
			return configErrorf("instruction %s: %v", in.ID, err)
		}
		instruction, err := config.read(anchors)
		if err != nil {
			return configErrorf("instruction %s: %v", in.ID, err)
		}
		instruction.Status = status.question(config.Status)
		rules.Instructions = append(rules.Instructions, instruction)
	}
	for _, v := range managed.Verdicts {
		config, err := verdictOf(v)
		if err != nil {
			return configErrorf("verdict %s: %v", v.ID, err)
		}
		verdict, err := config.read()
		if err != nil {
			return configErrorf("verdict %s: %v", v.ID, err)
		}
		rules.Verdicts = append(rules.Verdicts, verdict)
	}
	return nil
}

// addManaged makes anchors known by their digests, beside those that were read
// from files.
func (c anchorCache) addManaged(managed []console.Anchor) error {
	for _, roots := range c {
		for _, root := range roots {
			c[muster.DigestOf(root.Raw).String()] = []*x509.Certificate{root}
		}
	}
	for _, a := range managed {
		block, _ := pem.Decode([]byte(a.PEM))
		if block == nil {
			return configErrorf("the anchor %s is not in PEM", a.ID)
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil || muster.DigestOf(root.Raw).String() != a.ID {
			return configErrorf("the anchor %s is another certificate, or none", a.ID)
		}
		c[a.ID] = []*x509.Certificate{root}
	}
	return nil
}

// instructionOf returns an operators' instruction as a configuration would have it,
// with the digests of its anchors for their files.
func instructionOf(in console.Instruction) (c instructionConfig, err error) {
	c.Anchors, c.Template = in.Anchors, in.Template
	c.Certificate = certificateConfig{Flavour: muster.Flavour(in.Flavour), Name: in.Name, Pattern: in.Pattern}
	for _, text := range in.KpmIDs {
		id, err := muster.ParseKpmID(text)
		if err != nil {
			return c, err
		}
		c.KpmIDs = append(c.KpmIDs, id)
	}
	for _, text := range in.Targets {
		target, err := muster.ParseFQDN(text)
		if err != nil {
			return c, err
		}
		c.Targets = append(c.Targets, target)
	}
	if in.EnroleeID != "" {
		if c.EnroleeID, err = muster.ParseEnroleeID(in.EnroleeID); err != nil {
			return c, err
		}
	}
	if in.Status != "" {
		c.Status = new(revocation.Mode)
		if err := c.Status.UnmarshalText([]byte(in.Status)); err != nil {
			return c, err
		}
	}
	c.Lifetime, err = time.ParseDuration(in.Lifetime)
	return c, err
}

// shownInstruction is the reverse, for the instructions of a configuration.
func shownInstruction(c instructionConfig, roots []*x509.Certificate) console.Instruction {
	in := console.Instruction{
		Origin: console.FromConfiguration, Flavour: string(c.Certificate.Flavour), Name: c.Certificate.Name, Pattern: c.Certificate.Pattern,
		EnroleeID: c.EnroleeID.String(), Template: c.Template, Lifetime: c.Lifetime.String(),
	}
	for _, root := range roots {
		in.Anchors = append(in.Anchors, muster.DigestOf(root.Raw).String())
	}
	for _, id := range c.KpmIDs {
		in.KpmIDs = append(in.KpmIDs, id.String())
	}
	for _, target := range c.Targets {
		in.Targets = append(in.Targets, target.String())
	}
	if c.Status != nil {
		in.Status = c.Status.String()
	}
	return in.Identified()
}

func verdictOf(v console.Verdict) (c verdictConfig, err error) {
	c = verdictConfig{Certificate: certificateConfig{Flavour: muster.Flavour(v.Flavour), Name: v.Name}, Digest: v.Digest, Reason: v.Reason}
	if v.Before != nil {
		c.Before = *v.Before
	}
	if v.EnroleeID != "" {
		if c.EnroleeID, err = muster.ParseEnroleeID(v.EnroleeID); err != nil {
			return c, err
		}
	}
	return c, c.Verdict.UnmarshalText([]byte(v.Verdict))
}

func shownVerdict(c verdictConfig) console.Verdict {
	v := console.Verdict{
		Origin: console.FromConfiguration, Verdict: string(c.Verdict), EnroleeID: c.EnroleeID.String(),
		Flavour: string(c.Certificate.Flavour), Name: c.Certificate.Name, Digest: c.Digest, Reason: c.Reason,
	}
	if !c.Before.IsZero() {
		v.Before = &c.Before
	}
	return v.Identified()
}

// shown returns the rules of a configuration as operators see them, if there are
// operators.
func (k *ruleKeeper) shown(c *mefConfig) (rules console.Rules, err error) {
	if !k.watched {
		return rules, nil
	}
	anchors := anchorCache{}
	seen := map[string]bool{}
	for _, in := range c.Instructions {
		roots, err := anchors.read(in.Anchors)
		if err != nil {
			return rules, err
		}
		rules.Instructions = append(rules.Instructions, shownInstruction(in, roots))
		for _, root := range roots {
			anchor := console.NewAnchor(root)
			anchor.Origin = console.FromConfiguration
			if !seen[anchor.ID] {
				rules.Anchors = append(rules.Anchors, anchor)
			}
			seen[anchor.ID] = true
		}
	}
	for _, v := range c.Verdicts {
		rules.Verdicts = append(rules.Verdicts, shownVerdict(v))
	}
	return rules, nil
}

// put makes the keeper show a configuration that has taken effect, whose own rules
// are configured.
func (k *ruleKeeper) put(config *mefConfig, configured console.Rules) {
	k.running = *config
	k.mu.Lock()
	defer k.mu.Unlock()
	k.configured, k.managed = configured, config.managed
}

// Rules implements console.RuleKeeper, as do Edit, Check and Takes.
func (k *ruleKeeper) Rules(context.Context) (configured, managed console.Rules, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.configured, k.managed, nil
}

// Edit begins with what the file has, and has it for itself until it ends, so that
// processes can share it.
func (k *ruleKeeper) Edit(ctx context.Context, act console.Act, try bool, edit func(configured console.Rules, managed *console.Rules) error) error {
	k.service.reloading.Lock()
	defer k.service.reloading.Unlock()
	if k.running.Admin.Rules == "" {
		return muster.Refuse(muster.CodeRequestNotAllowed, "the configuration has no admin.rules, the file in which rules of operators are kept")
	}
	next := k.running
	unlock, err := lockRules(ctx, next.Admin.Rules)
	if err != nil {
		return err
	}
	defer unlock()
	seen := stampOf(next.Admin.Rules)
	if next.managed, err = readManaged(next.Admin.Rules); err != nil {
		return err
	}
	if k.anchors, err = next.anchorsByDigest(); err != nil {
		return err
	}
	configured, _, _ := k.Rules(ctx)
	next.managed = console.Rules{
		Anchors: slices.Clone(next.managed.Anchors), Instructions: slices.Clone(next.managed.Instructions), Verdicts: slices.Clone(next.managed.Verdicts),
	}
	if err := edit(configured, &next.managed); err != nil {
		return err
	}
	role, err := k.assemble(&next)
	if err != nil || try {
		return err
	}
	octets, err := json.MarshalIndent(next.managed, "", " ")
	if err != nil {
		return err
	}
	if stampOf(next.Admin.Rules) != seen { // by who takes no lock, as an editor
		return muster.Refuse(muster.CodeBusy, "another process has changed %s meanwhile", next.Admin.Rules)
	}
	if err := k.service.trail.write(ctx, audit.Entry{Kind: audit.KindAdmin, Who: act.Who, What: act.What}); err != nil {
		return err
	}
	if err := replaceFile(next.Admin.Rules, append(octets, '\n'), 0o600); err != nil {
		return muster.Refuse(muster.CodeStoreFailed, "admin.rules: %w", err)
	}
	k.slot.current.Store(&role)
	k.put(&next, configured)
	return nil
}

// rulesPatience is how long a change waits for those of other processes.
const rulesPatience = 5 * time.Second

// lockRules keeps other processes that share a file of operators' rules from changing
// it until unlock is called. The lock is a file of its own, which stays.
func lockRules(ctx context.Context, path string) (unlock func(), err error) {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, muster.Refuse(muster.CodeStoreFailed, "admin.rules: %w", err)
	}
	for deadline := time.Now().Add(rulesPatience); ; {
		if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return func() { _ = lock.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			break
		}
		if err = sleep(ctx, 10*time.Millisecond); err != nil {
			break
		}
	}
	return nil, errors.Join(muster.Refuse(muster.CodeBusy, "another process changes %s: %w", path, err), lock.Close())
}

// Check implements console.RuleKeeper. It is called within Edit.
func (k *ruleKeeper) Check(in console.Instruction) error {
	config, err := instructionOf(in)
	if err != nil {
		return muster.Refuse(muster.CodeConfiguration, "%w", err)
	}
	instruction, err := config.read(k.anchors)
	if err == nil {
		err = instruction.Check()
	}
	if err != nil {
		return muster.Refuse(muster.CodeConfiguration, "%w", err)
	}
	return nil
}

// Takes implements console.RuleKeeper. It is called within Edit.
func (k *ruleKeeper) Takes(in, group console.Instruction) bool {
	var read [2]mef.Instruction
	for i, shown := range []console.Instruction{in, group} {
		config, err := instructionOf(shown)
		if err == nil {
			read[i], err = config.read(k.anchors)
		}
		if err != nil { // one that cannot be judged is not overruled
			return true
		}
	}
	return read[0].Takes(&read[1])
}

// anchorsByDigest returns all roots that operators can pin.
func (c *mefConfig) anchorsByDigest() (anchorCache, error) {
	anchors := anchorCache{}
	for _, in := range c.Instructions {
		if _, err := anchors.read(in.Anchors); err != nil {
			return nil, err
		}
	}
	return anchors, anchors.addManaged(c.managed.Anchors)
}

// watchRules has the service take up what another process makes of the file of the
// operators' rules, until it stops.
func (s *service) watchRules() {
	if path := s.rules.running.Admin.Rules; path != "" {
		s.tasks.Go(func() error {
			s.rules.follow(s.base, path, identityPoll)
			return nil
		})
	}
}

// follow takes up what another process makes of the file, until ctx ends.
func (k *ruleKeeper) follow(ctx context.Context, path string, every time.Duration) {
	var known stamp // so that the first look finds what came since the file was read
	for sleep(ctx, every) == nil {
		if now := stampOf(path); now != known {
			known = now
			k.refresh()
		}
	}
}

// refresh puts the rules of the file in place, if they are others.
func (k *ruleKeeper) refresh() {
	k.service.reloading.Lock()
	defer k.service.reloading.Unlock()
	next := k.running
	var err error
	if next.managed, err = readManaged(next.Admin.Rules); err == nil {
		if bytes.Equal(marshalled(k.running.managed), marshalled(next.managed)) {
			return
		}
		var r role
		if r, err = k.assemble(&next); err == nil {
			if err = k.service.trail.write(context.Background(), audit.Entry{Kind: audit.KindRules, Who: "rules of operators"}); err == nil {
				k.slot.current.Store(&r)
				k.put(&next, k.configured)
			}
		}
	}
	k.service.set.Reloaded("rules", err)
	if err != nil {
		logRefusal(k.service.log, "rules of operators refused, the old ones stay", err)
	}
}

func marshalled(rules console.Rules) []byte {
	text, _ := json.Marshal(rules) // of texts and times: never fails
	return text
}
