// Package enrolee is the device's side: it enrols at a MEF, derives the Master
// Credential, attaches to the MAF and keeps the credential fresh (TS-0003
// 8.3.2.2, 8.8). It knows no socket, clock or file: a Dialer brings
// authenticated connections, a Keyring keeps credentials, and time and chance are
// functions in Config. Packages enrolee/dialer and enrolee/keyring offer both for
// an ordinary operating system.
package enrolee

import (
	"context"
	"errors"
	"fmt"
	"time"

	"muster"
	"muster/primitive"
	"muster/tef"
)

// A Config is what an Enrolee is configured with besides the credentials of its
// transport (TS-0003 9.2.1). It must not be changed after New.
type Config struct {
	EnroleeID  muster.EnroleeID
	MEF, MAF   muster.FQDN
	AdminFQDN  muster.FQDN // the administrating stakeholder to register with
	Labels     []string    // of the registration
	Derivation muster.DerivationProfile
	Wire       *primitive.Wire
	// Unconfirmed skips the requests by which an Enrolee learns that the MEF has
	// stored the enrolment and the MAF has taken the KmID into use, for functions
	// that serve no base resource.
	Unconfirmed bool
	// Executor performs the commands of the MEF, for which Ensure and Maintain then
	// ask whenever they enrol; nil if they are not asked for.
	Executor Executor
	// Exchanged is told what such an Enrolment Exchange has brought; it may be nil.
	Exchanged func(Exchange, error)

	Now   func() time.Time                                 // the wall clock
	Sleep func(ctx context.Context, d time.Duration) error // returns ctx's error if it ends first
	Rand  func() float64                                   // uniform in [0, 1), by several goroutines
}

// A Conn is an authenticated connection to a MEF or a MAF.
type Conn interface {
	Session() *muster.Session
	// Do sends a request and returns the response to it. One request is under
	// way at a time.
	Do(ctx context.Context, request *primitive.Request) (*primitive.Response, error)
	Close() error
}

// A Dialer opens connections. It verifies that the other side is the configured
// MEF or holds the Master Credential before it returns.
type Dialer interface {
	DialMEF(ctx context.Context) (Conn, error)
	DialMAF(ctx context.Context, pskIdentity string, km muster.Km) (Conn, error)
}

// A Credential is a Master Credential as its Enrolee keeps it.
type Credential struct {
	KeID     muster.KeID
	KmID     muster.KmID // zero until the MAF has assigned it
	MAF      muster.FQDN
	Km       muster.Km
	Enrolled time.Time
	Expires  time.Time // zero until the MAF has told it
}

// Credentials are what an Enrolee keeps: the one that works, a newer one that has
// not proved itself yet, and what it remembers of the MEF's commands. Either of
// the credentials may be nil.
type Credentials struct {
	Current, Next *Credential
	Command       CommandMemory
}

// A Keyring keeps the Credentials of one Enrolee. A Keyring that holds none loads
// the zero Credentials. Save is atomic and durable: after it returned nil, Load
// returns what was saved, and after an error either that or what was there before.
type Keyring interface {
	Load(ctx context.Context) (Credentials, error)
	Save(ctx context.Context, c Credentials) error
}

// ErrNotEnrolled is returned by Attach where there is no credential to attach with.
var ErrNotEnrolled = errors.New("the Enrolee has no usable credential: enrol first")

// An Enrolee is one device. Its methods must not be called concurrently.
type Enrolee struct {
	config  Config
	dialer  Dialer
	keyring Keyring
	askAt   time.Time // for commands of the MEF, which it asked to be asked for then; or zero
}

// New returns an Enrolee, or an error that says what the configuration lacks.
func New(config Config, dialer Dialer, keyring Keyring) (*Enrolee, error) {
	switch {
	case config.EnroleeID.IsZero() || config.MEF.IsZero() || config.MAF.IsZero() || config.AdminFQDN.IsZero():
		return nil, errors.New("the Enrolee lacks its Enrolee-ID, MEF, MAF or administrating stakeholder")
	case config.Now == nil || config.Sleep == nil || config.Rand == nil || config.Wire == nil:
		return nil, errors.New("the Enrolee lacks a clock, a way to sleep, a source of chance or the wire names")
	}
	return &Enrolee{config: config, dialer: dialer, keyring: keyring}, nil
}

// Enrol runs the MEF Handshake, exports Ke and its KeID, derives Km for the MAF
// and keeps it beside the credential that works so far. Ke is forgotten.
//
// TS-0003 8.3.2.2, 10.3.2
func (e *Enrolee) Enrol(ctx context.Context) (Credential, error) {
	conn, err := e.dialer.DialMEF(ctx)
	if err != nil {
		return Credential{}, fmt.Errorf("handshake with the MEF %s: %w", e.config.MEF, err)
	}
	defer func() { _ = conn.Close() }()
	return e.enrolOver(ctx, conn)
}

// enrolOver makes an enrolment of a session with the MEF.
func (e *Enrolee) enrolOver(ctx context.Context, conn Conn) (Credential, error) {
	ke, keID, err := muster.EnrolmentKey(conn.Session(), e.config.MEF)
	if err != nil {
		return Credential{}, fmt.Errorf("export of the Enrolment Key: %w", err)
	}
	if err := e.confirm(ctx, conn); err != nil {
		return Credential{}, fmt.Errorf("confirmation by the MEF %s: %w", e.config.MEF, err)
	}
	km, err := ke.MasterCredential(e.config.Derivation, e.config.MAF)
	if err != nil {
		return Credential{}, err
	}
	kept, err := e.keyring.Load(ctx)
	if err != nil {
		return Credential{}, err
	}
	next := Credential{KeID: keID, MAF: e.config.MAF, Km: km, Enrolled: e.config.Now().Truncate(time.Second)}
	kept.Next = &next
	return next, e.keyring.Save(ctx, kept)
}

// confirm asks the other side for anything. A MEF or MAF answers nothing before
// what its session stands for is durable, so that any answer, be it a refusal,
// says that it is.
func (e *Enrolee) confirm(ctx context.Context, conn Conn) error {
	if e.config.Unconfirmed {
		return nil
	}
	_, err := conn.Do(ctx, tef.RetrieveBase(e.config.Wire, e.config.EnroleeID.String(), e.requestID()))
	return err
}

// requester returns the typed end of a session with a function.
func (e *Enrolee) requester(party tef.Party, function muster.FQDN, conn Conn) *tef.Requester {
	return &tef.Requester{
		Party: party, Function: function, From: e.config.EnroleeID.String(), Wire: e.config.Wire, Doer: conn, RequestID: e.requestID,
	}
}

// refused gives a code to what the other side answered, or answered wrongly; that
// it did not answer has one from the dialer, if any.
func refused(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if _, ok := errors.AsType[*primitive.Error](err); ok {
		return muster.Refuse(muster.CodePeerRefused, "%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (e *Enrolee) requestID() string { return fmt.Sprintf("%08x", uint32(e.config.Rand()*(1<<32))) }

// An Attachment is an open session with the MAF under a KmID.
type Attachment struct {
	Conn
	Credential Credential

	enrolee *Enrolee
}

// Attach opens a session with the MAF. A credential that is new is proved first;
// where that fails, the one that worked so far still serves. The caller closes
// the Attachment.
//
// TS-0003 8.8.2.2
func (e *Enrolee) Attach(ctx context.Context) (*Attachment, error) {
	kept, err := e.keyring.Load(ctx)
	if err != nil {
		return nil, err
	}
	if kept.Next == nil {
		return e.reattach(ctx, kept)
	}
	attachment, err := e.prove(ctx, kept)
	if err == nil {
		return attachment, nil
	}
	if attachment, failed := e.reattach(ctx, kept); failed == nil {
		return attachment, nil
	}
	return nil, err
}

// prove opens a session under the KeID of the new credential, registers and
// learns the KmID; only when the MAF has answered under the KmID does the new
// credential replace the old one.
//
// TS-0003 8.8.2.3
func (e *Enrolee) prove(ctx context.Context, kept Credentials) (*Attachment, error) {
	if kept.Next.KmID.IsZero() {
		if err := e.register(ctx, kept.Next); err != nil {
			return nil, err
		}
		if err := e.keyring.Save(ctx, kept); err != nil {
			return nil, err
		}
	}
	attachment, err := e.open(ctx, *kept.Next)
	if err != nil {
		return nil, err
	}
	if err = e.confirm(ctx, attachment); err == nil {
		kept.Current, kept.Next = kept.Next, nil
		err = e.keyring.Save(ctx, kept)
	}
	if err != nil {
		_ = attachment.Close()
		return nil, fmt.Errorf("first session with the MAF %s under %s: %w", attachment.Credential.MAF, attachment.Credential.KmID, err)
	}
	return attachment, nil
}

// reattach opens a session with the credential that works; the MEF has no part in it.
func (e *Enrolee) reattach(ctx context.Context, kept Credentials) (*Attachment, error) {
	if kept.Current == nil || !e.config.Now().Before(kept.Current.Expires) {
		return nil, ErrNotEnrolled
	}
	return e.open(ctx, *kept.Current)
}

func (e *Enrolee) open(ctx context.Context, c Credential) (*Attachment, error) {
	conn, err := e.dialer.DialMAF(ctx, c.KmID.String(), c.Km)
	if err != nil {
		return nil, fmt.Errorf("handshake with the MAF %s under %s: %w", c.MAF, c.KmID, err)
	}
	return &Attachment{conn, c, e}, nil
}

// register opens a session under the KeID and fills in what the MAF assigns.
func (e *Enrolee) register(ctx context.Context, c *Credential) error {
	conn, err := e.dialer.DialMAF(ctx, c.KeID.String(), c.Km)
	if err != nil {
		return fmt.Errorf("handshake with the MAF %s under %s: %w", c.MAF, c.KeID, err)
	}
	defer func() { _ = conn.Close() }()
	registration, err := e.requester(tef.MAF(), c.MAF, conn).Register(ctx, tef.ClientRegistration{
		AdminFQDN: e.config.AdminFQDN, Labels: e.config.Labels,
	})
	if err != nil {
		return refused(err, "registration with the MAF %s", c.MAF)
	}
	switch {
	case registration.ClientID != e.config.EnroleeID:
		return muster.Refuse(muster.CodeRegistrationWrong, "the MAF %s registered %s, not %s", c.MAF, registration.ClientID, e.config.EnroleeID)
	case registration.AssignedSymmKeyID.MAF() != c.MAF:
		return muster.Refuse(muster.CodeRegistrationWrong, "the MAF %s assigned the key identifier %q, which is not its own", c.MAF, registration.AssignedSymmKeyID)
	case !e.config.Now().Before(registration.Expires):
		return muster.Refuse(muster.CodeRegistrationWrong, "the MAF %s registered until %s, which is over", c.MAF, registration.Expires)
	}
	c.KmID, c.Expires = registration.AssignedSymmKeyID, registration.Expires
	return nil
}
