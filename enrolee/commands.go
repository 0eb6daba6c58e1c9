package enrolee

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"muster"
	"muster/tef"
)

// An Executor performs the commands of a MEF, a method for each class; the class
// NO_MORE_COMMANDS ends the exchange and needs none. An error says what the MEF is
// told: errors.ErrUnsupported that the class is not supported, a *CommandError its
// status, every other one the client error of the class.
type Executor interface {
	ProvisionCertificate(ctx context.Context, c tef.CertificateProvisioning) error
	ConfigureDevice(ctx context.Context, c tef.DeviceConfiguration) error
	ProcessNode(ctx context.Context, c tef.NodeProcessing) error
}

// A CommandError is the failure of a command with the status to report.
type CommandError struct {
	Status tef.CommandStatus
	Err    error
}

// Error returns the text of the wrapped error.
func (e *CommandError) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *CommandError) Unwrap() error { return e.Err }

// A CommandMemory is the last command that was performed and what became of it. It
// keeps a command from being performed twice.
type CommandMemory struct {
	ID       string            `json:"id"`
	Status   tef.CommandStatus `json:"status"`
	Reported bool              `json:"reported,omitempty"` // the MEF has answered the report
}

// A Commander performs the commands of one MEF for one client registration. Its
// methods must not be called concurrently.
type Commander struct {
	Executor Executor
	// Memory is where the Commander begins, and where it stands after each call.
	Memory CommandMemory
	// Remember makes the memory durable, after a command was performed and before
	// its status is reported. It may be nil, and then a device that dies at that
	// moment performs a command again.
	Remember func(ctx context.Context, m CommandMemory) error
}

// maxCommands bounds one exchange with a MEF that never ends it.
const maxCommands = 64

// Obey retrieves a command, performs it, reports its status and goes on with the
// command in the answer, until the MEF has no more. It returns after which time to
// ask again.
//
// TS-0003 8.3.9.2, 8.3.9.3, 8.3.9.6
func (c *Commander) Obey(ctx context.Context, mmef *tef.Requester, registrationID string) (retryAfter time.Duration, err error) {
	command, err := mmef.Command(ctx, registrationID)
	for range maxCommands {
		if err != nil && !errors.Is(err, tef.ErrArguments) {
			return 0, refused(err, "command of the MEF %s", mmef.Function)
		}
		if command.Description.NoMore != nil {
			return command.Description.NoMore.RetryAfter, nil
		}
		status, repeated := c.status(ctx, mmef.Function, command, err)
		if !repeated {
			if err := c.remember(ctx, CommandMemory{ID: command.ID, Status: status}); err != nil {
				return 0, err
			}
		}
		command, err = mmef.ReportCommand(ctx, registrationID, command.ID, status)
		if err == nil || errors.Is(err, tef.ErrArguments) {
			c.Memory.Reported = true
			if err := c.remember(ctx, c.Memory); err != nil {
				return 0, err
			}
		}
	}
	return 0, muster.Refuse(muster.CodePeerRefused, "the MEF %s has more than %d commands at once", mmef.Function, maxCommands)
}

func (c *Commander) remember(ctx context.Context, m CommandMemory) error {
	c.Memory = m
	if c.Remember == nil {
		return nil
	}
	return c.Remember(ctx, m)
}

// status performs a command, unless it has been performed: what was not reported
// is then reported, and what the MEF has answered already is a repeated identifier.
func (c *Commander) status(ctx context.Context, mef muster.FQDN, command tef.Command, unreadable error) (status tef.CommandStatus, repeated bool) {
	switch {
	case command.ID == c.Memory.ID && c.Memory.Reported:
		return tef.CommandRepeatedID, true
	case command.ID == c.Memory.ID:
		return c.Memory.Status, true
	case unreadable != nil:
		return tef.CommandBadArguments, false
	}
	d := command.Description
	var err error
	failure := tef.CommandClassNotSupported
	switch {
	case d.Certificate != nil:
		failure = tef.CertificateClientError
		if err = acceptCertificate(*d.Certificate, mef); err == nil {
			err = c.Executor.ProvisionCertificate(ctx, *d.Certificate)
		}
	case d.Device != nil:
		failure = tef.DeviceClientError
		if err = acceptDevice(*d.Device, mef); err == nil {
			err = c.Executor.ConfigureDevice(ctx, *d.Device)
		}
	case d.Node != nil:
		failure = tef.NodeFailed
		err = c.Executor.ProcessNode(ctx, *d.Node)
	default:
		err = errors.ErrUnsupported
	}
	return statusOf(err, failure), false
}

func statusOf(err error, failure tef.CommandStatus) tef.CommandStatus {
	if err == nil {
		return tef.CommandOK
	}
	if told, ok := errors.AsType[*CommandError](err); ok {
		return told.Status
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return tef.CommandClassNotSupported
	}
	return failure
}

func unacceptable(format string, args ...any) error {
	return &CommandError{tef.CommandUnacceptableArguments, fmt.Errorf(format, args...)}
}

// acceptCertificate makes the checks that do not depend on the device.
//
// TS-0003 8.3.9.7
func acceptCertificate(c tef.CertificateProvisioning, mef muster.FQDN) error {
	if c.Protocol != tef.ProtocolEST && c.Protocol != tef.ProtocolSCEP {
		return unacceptable("the protocol %d is neither EST nor SCEP", c.Protocol)
	}
	switch c.SubjectType {
	case tef.SubjectNode:
		if strings.HasPrefix(c.SubjectID, "//") {
			return unacceptable("%q is not a Node-ID", c.SubjectID)
		}
	case tef.SubjectCSE, tef.SubjectAE:
		if _, err := muster.ParseEnroleeID(c.SubjectID); err != nil {
			return unacceptable("the subject: %w", err)
		}
	default:
		return unacceptable("%d is not a type of subject", c.SubjectType)
	}
	return acceptURI(c.URI, mef)
}

// acceptDevice makes the checks that do not depend on the device.
//
// TS-0003 8.3.9.8, 12.2
func acceptDevice(c tef.DeviceConfiguration, mef muster.FQDN) error {
	technology, uri, ok := strings.Cut(c.URI, ":")
	if !ok || len(technology) != 1 || technology < "1" || technology > "4" {
		return unacceptable("%.64q does not begin with a number from 1 to 4 and a colon", c.URI)
	}
	return acceptURI(uri, mef)
}

// acceptURI refuses a server that is not the MEF, at whatever port.
func acceptURI(text string, mef muster.FQDN) error {
	uri, err := url.Parse(text)
	if err != nil || uri.Host == "" || uri.User != nil || !strings.EqualFold(uri.Hostname(), mef.String()) {
		return unacceptable("%.64q is not a URI on %s", text, mef)
	}
	return nil
}

// An Exchange is what an Enrolment Exchange has brought.
type Exchange struct {
	Credential   Credential
	Registration tef.ClientRegistration // with the MEF
	// RetryAfter is after which time the MEF wants to be asked for commands again.
	RetryAfter time.Duration
}

// Exchange is Enrol with more in the same session: it registers with the MEF for
// the Enrolee's stakeholder, and has the Executor perform the MEF's commands. An
// error comes with what was achieved before it; the credential is kept as soon as
// it is there, and so is what has become of each command.
//
// TS-0003 8.3.4.6, 8.3.5.2.3
func (e *Enrolee) Exchange(ctx context.Context) (done Exchange, err error) {
	conn, err := e.dialer.DialMEF(ctx)
	if err != nil {
		return done, fmt.Errorf("handshake with the MEF %s: %w", e.config.MEF, err)
	}
	defer func() { _ = conn.Close() }()
	if done.Credential, err = e.enrolOver(ctx, conn); err != nil {
		return done, err
	}
	mmef := e.requester(tef.MEF(), e.config.MEF, conn)
	done.Registration, err = mmef.Register(ctx, tef.ClientRegistration{AdminFQDN: e.config.AdminFQDN, Labels: e.config.Labels})
	if err != nil {
		return done, refused(err, "registration with the MEF %s", e.config.MEF)
	}
	kept, err := e.keyring.Load(ctx)
	if err != nil {
		return done, err
	}
	commander := Commander{Executor: e.config.Executor, Memory: kept.Command, Remember: func(ctx context.Context, m CommandMemory) error {
		kept.Command = m
		return e.keyring.Save(ctx, kept)
	}}
	done.RetryAfter, err = commander.Obey(ctx, mmef, done.Registration.ID)
	return done, err
}
