package revocation

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// A Mode weighs a status that cannot be learned. The zero Mode is the strict one.
type Mode int

// The modes.
const (
	// ModeHard refuses a certificate whose status is unknown.
	ModeHard Mode = iota
	// ModeSoft warns of it.
	ModeSoft
	// ModeOff asks for no status.
	ModeOff
)

// String returns "hard", "soft" or "off", as in a configuration.
func (m Mode) String() string {
	switch m {
	case ModeSoft:
		return "soft"
	case ModeOff:
		return "off"
	default:
		return "hard"
	}
}

// UnmarshalText accepts "hard", "soft" and "off"; anything else is an error.
func (m *Mode) UnmarshalText(text []byte) error {
	for _, known := range []Mode{ModeHard, ModeSoft, ModeOff} {
		if string(text) == known.String() {
			*m = known
			return nil
		}
	}
	return fmt.Errorf("%q is not a mode of status checks: want hard, soft or off", text)
}

// A Scope says which certificates of a path are asked about.
type Scope int

// The scopes.
const (
	// ScopePath is every certificate but the anchor, which nobody can revoke.
	ScopePath Scope = iota
	// ScopeLeaf is the peer's own certificate, for authorities that keep no
	// list of intermediates.
	ScopeLeaf
)

// String returns "path" or "leaf", as in a configuration.
func (s Scope) String() string {
	if s == ScopeLeaf {
		return "leaf"
	}
	return "path"
}

// UnmarshalText accepts "path" and "leaf"; anything else is an error.
func (s *Scope) UnmarshalText(text []byte) error {
	for _, known := range []Scope{ScopePath, ScopeLeaf} {
		if string(text) == known.String() {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("%q is not a scope of status checks: want path or leaf", text)
}

// A Nonce says whether an OCSP answer must repeat the random octets of its
// request (RFC 9654). An answer with other octets is refused in any case.
type Nonce int

// The rules for nonces.
const (
	// NonceOffered sends one and accepts answers without: many responders sign
	// their answers in advance.
	NonceOffered Nonce = iota
	// NonceRequired refuses answers without one.
	NonceRequired
	// NonceOff sends none.
	NonceOff
)

// String returns "offered", "required" or "off", as in a configuration.
func (n Nonce) String() string {
	switch n {
	case NonceRequired:
		return "required"
	case NonceOff:
		return "off"
	default:
		return "offered"
	}
}

// UnmarshalText accepts "offered", "required" and "off"; anything else is an error.
func (n *Nonce) UnmarshalText(text []byte) error {
	for _, known := range []Nonce{NonceOffered, NonceRequired, NonceOff} {
		if string(text) == known.String() {
			*n = known
			return nil
		}
	}
	return fmt.Errorf("%q is not a rule for nonces: want offered, required or off", text)
}

// A Config is what a Checker is made of. The zero Config knows nothing and
// connects to nobody.
type Config struct {
	// Files are CRLs in DER or PEM, complete or delta. They are read by New and,
	// when changed, by Refresh.
	Files []string
	// URLs are CRLs that the operator names, complete or delta.
	URLs []string
	// Responders are OCSP responders that the operator names. They are asked
	// before those that a certificate names.
	Responders []string
	// Follow admits the URLs in certificates: CRLDistributionPoints, freshestCRL
	// and the OCSP entries of authorityInfoAccess.
	Follow bool
	// Networks are addresses that may be connected to, on any port, although
	// they are not public. They hold for URLs of either origin.
	Networks []netip.Prefix
	// Resolver resolves host names. Nil means net.DefaultResolver.
	Resolver *net.Resolver
	// Nonce is the rule for OCSP.
	Nonce Nonce

	Deadline     time.Duration // of one Check; 2 s if zero
	FetchTimeout time.Duration // of one download, which a Check need not await; 15 s if zero
	Skew         time.Duration // tolerated between clocks; 2 min if zero
	Grace        time.Duration // for which a CRL is used, with a warning, after its nextUpdate
	Refresh      time.Duration // after which what is known is asked for again; 1 h if zero
	Retry        time.Duration // after which a failed download is tried again; 1 min if zero

	MaxCRL     int64 // size of a CRL in octets; 16 MiB if zero
	MaxAnswer  int64 // size of an OCSP answer in octets; 64 KiB if zero
	MaxLists   int   // CRLs kept for URLs in certificates; 64 if zero
	MaxAnswers int   // OCSP answers kept; 10,000 if zero
	MaxFetches int   // downloads at the same time; 16 if zero

	// Clock says when downloads are due. Nil means time.Now. Whether an answer
	// is current is decided by the time in the Question.
	Clock func() time.Time
	// Log takes what an operator should see. Nil means nothing is logged.
	Log *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	for _, d := range []time.Duration{c.Deadline, c.FetchTimeout, c.Skew, c.Grace, c.Refresh, c.Retry} {
		if d < 0 {
			return Config{}, fmt.Errorf("revocation: the duration %s is negative", d)
		}
	}
	for _, n := range []int64{c.MaxCRL, c.MaxAnswer, int64(c.MaxLists), int64(c.MaxAnswers), int64(c.MaxFetches)} {
		if n < 0 {
			return Config{}, fmt.Errorf("revocation: the bound %d is negative", n)
		}
	}
	for _, text := range append(append([]string(nil), c.URLs...), c.Responders...) {
		if err := checkURL(text); err != nil {
			return Config{}, fmt.Errorf("revocation: %w", err)
		}
	}
	c.Deadline = cmp.Or(c.Deadline, 2*time.Second)
	c.FetchTimeout = cmp.Or(c.FetchTimeout, 15*time.Second)
	c.Skew = cmp.Or(c.Skew, 2*time.Minute)
	c.Refresh = cmp.Or(c.Refresh, time.Hour)
	c.Retry = cmp.Or(c.Retry, time.Minute)
	c.MaxCRL = cmp.Or(c.MaxCRL, 16<<20)
	c.MaxAnswer = cmp.Or(c.MaxAnswer, 64<<10)
	c.MaxLists = cmp.Or(c.MaxLists, 64)
	c.MaxAnswers = cmp.Or(c.MaxAnswers, 10_000)
	c.MaxFetches = cmp.Or(c.MaxFetches, 16)
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}
