package console

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"time"

	"muster"
)

// Rules are the instructions, trust anchors and verdicts of a MEF: those of its
// configuration, or those that operators manage.
type Rules struct {
	Anchors      []Anchor      `json:"anchors"`
	Instructions []Instruction `json:"instructions"`
	Verdicts     []Verdict     `json:"verdicts"`
}

// The origins of a rule.
const (
	FromConfiguration = "configuration" // and changed there only
	FromOperators     = "operators"
)

// An Anchor is a root that instructions pin.
type Anchor struct {
	ID       string    `json:"id"` // SHA-256
	Origin   string    `json:"origin"`
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"not_after"`
	PEM      string    `json:"pem"`
}

// NewAnchor returns a root as an anchor of the operators.
func NewAnchor(root *x509.Certificate) Anchor {
	return Anchor{
		ID: muster.DigestOf(root.Raw).String(), Origin: FromOperators, Subject: root.Subject.String(),
		NotAfter: root.NotAfter, PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})),
	}
}

// ErrNoAnchor is returned for what is not exactly one certificate in PEM.
var ErrNoAnchor = errors.New("pem is not one certificate")

// ParseAnchor reads exactly one certificate in PEM.
func ParseAnchor(text string) (Anchor, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
		return Anchor{}, ErrNoAnchor
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Anchor{}, err
	}
	return NewAnchor(root), nil
}

// An Instruction is one Enrolee, or a group of them, as the MEF knows it.
type Instruction struct {
	// ID is made of Flavour, Name, Pattern, Anchors and KpmIDs: by what Enrolees are known.
	ID        string   `json:"id,omitempty"`
	Origin    string   `json:"origin,omitempty"`
	Flavour   string   `json:"flavour,omitempty"`
	Name      string   `json:"name,omitempty"`
	Pattern   string   `json:"pattern,omitempty"`
	Anchors   []string `json:"anchors,omitempty"` // SHA-256 of each
	KpmIDs    []string `json:"kpm_ids,omitempty"`
	EnroleeID string   `json:"enrolee_id,omitempty"`
	Template  string   `json:"template,omitempty"`
	Targets   []string `json:"targets"`
	Lifetime  string   `json:"lifetime,omitempty"` // as 24h, which is also the default
	Status    string   `json:"status,omitempty"`   // hard, soft or off; as configured without
}

// Identified returns the instruction with its ID, what is a set in order, and the
// lifetime that it has by default.
func (in Instruction) Identified() Instruction {
	in.Anchors, in.KpmIDs, in.Targets = slices.Sorted(slices.Values(in.Anchors)), slices.Sorted(slices.Values(in.KpmIDs)), slices.Sorted(slices.Values(in.Targets))
	lifetime, err := time.ParseDuration(in.Lifetime)
	if in.Lifetime == "" {
		lifetime = defaultLifetime
	}
	if err == nil || in.Lifetime == "" {
		in.Lifetime = lifetime.String()
	}
	in.ID = identifierOf(in.Flavour, in.Name, in.Pattern, in.Anchors, in.KpmIDs)
	return in
}

const defaultLifetime = 24 * time.Hour

// scoped reports whether all Enrolees of the instruction are in a scope.
func (in *Instruction) scoped(scope Scope) bool {
	id := in.EnroleeID
	if id == "" {
		id, _, _ = strings.Cut(in.Template, "{")
	}
	return scope.Covers(id)
}

// A Verdict is the operators' word on an Enrolee, all certificates with a name, or
// one certificate.
type Verdict struct {
	// ID is made of whom the verdict is about: there is one for each.
	ID        string     `json:"id,omitempty"`
	Origin    string     `json:"origin,omitempty"`
	Verdict   string     `json:"verdict"` // ban, evict or suspend
	EnroleeID string     `json:"enrolee_id,omitempty"`
	Flavour   string     `json:"flavour,omitempty"`
	Name      string     `json:"name,omitempty"`
	Digest    string     `json:"digest,omitempty"` // SHA-256 of the certificate
	Before    *time.Time `json:"before,omitempty"` // of evicted enrolments; now by default
	Reason    string     `json:"reason,omitempty"`
}

// Identified returns the verdict with its ID.
func (v Verdict) Identified() Verdict {
	v.ID = identifierOf(v.EnroleeID, v.Flavour, v.Name, v.Digest)
	return v
}

// identifierOf returns 32 hexadecimal digits that are others for other parts.
func identifierOf(parts ...any) string {
	text, _ := json.Marshal(parts) // of strings and lists of them: never fails
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// A RuleKeeper keeps the rules of a MEF.
type RuleKeeper interface {
	// Rules returns the rules of the configuration and those of the operators. The
	// caller must not change them.
	Rules(ctx context.Context) (configured, managed Rules, err error)

	// Edit calls edit, one at a time, with a copy of the operators' rules to change
	// and, unless try is set, puts the outcome in place: durable, with the act written
	// down before. An error of edit, or of rules that contradict themselves, is
	// returned and changes nothing.
	Edit(ctx context.Context, act Act, try bool, edit func(configured Rules, managed *Rules) error) error

	// Check returns what is wrong with one instruction by itself, whose anchors are
	// known. It is called by edit.
	Check(in Instruction) error

	// Takes reports whether an instruction, being the more exact one, would decide
	// about certificates that are a group's. It is called by edit, after Check.
	Takes(in, group Instruction) bool
}

func (r *Rules) instruction(id string) int {
	return slices.IndexFunc(r.Instructions, func(in Instruction) bool { return in.ID == id })
}

func (r *Rules) verdict(id string) int {
	return slices.IndexFunc(r.Verdicts, func(v Verdict) bool { return v.ID == id })
}

func (r *Rules) anchor(id string) int {
	return slices.IndexFunc(r.Anchors, func(a Anchor) bool { return a.ID == id })
}
