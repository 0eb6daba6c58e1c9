package tef

import (
	"errors"
	"fmt"
	"time"

	"muster"
	"muster/primitive"
)

// A CommandClass says what a MEF client command asks for (TS-0003 12.3.2.3).
type CommandClass int

// The classes.
const (
	ClassNoMore      CommandClass = 0 // NO_MORE_COMMANDS
	ClassCertificate CommandClass = 1 // CERT_PROV
	ClassDevice      CommandClass = 2 // DEV_CFG
	ClassNode        CommandClass = 3 // MO_NODE
)

// A CommandStatus is the status of a MEF client command (TS-0003 12.3.2.4).
type CommandStatus int

// The statuses. The MEF assigns the first two, the client the others.
const (
	CommandIssued                CommandStatus = 10
	CommandReissued              CommandStatus = 11
	CommandOK                    CommandStatus = 20
	CommandRepeatedID            CommandStatus = 40
	CommandClassNotSupported     CommandStatus = 41
	CommandBadArguments          CommandStatus = 42
	CommandUnacceptableArguments CommandStatus = 43
	CertificateServerError       CommandStatus = 100
	CertificateClientError       CommandStatus = 101
	DeviceServerError            CommandStatus = 201
	DeviceClientError            CommandStatus = 202
	NodeNotFound                 CommandStatus = 300
	NodeTypeConflict             CommandStatus = 301
	NodeBadArguments             CommandStatus = 302
	NodeUnacceptableArguments    CommandStatus = 303
	NodeInconsistent             CommandStatus = 304
	NodeFailed                   CommandStatus = 305
)

// reportable says whether a client may report s.
func (s CommandStatus) reportable() bool {
	switch s {
	case CommandOK, CommandRepeatedID, CommandClassNotSupported, CommandBadArguments, CommandUnacceptableArguments,
		CertificateServerError, CertificateClientError, DeviceServerError, DeviceClientError,
		NodeNotFound, NodeTypeConflict, NodeBadArguments, NodeUnacceptableArguments, NodeInconsistent, NodeFailed:
		return true
	}
	return false
}

// Failed reports whether s says that a command was not performed, and why.
func (s CommandStatus) Failed() bool { return s.reportable() && s != CommandOK }

// A Command is a MEF client command (TS-0003 8.3.9): what to do, under an
// identifier of 1 to 64 octets that is unique in its client registration.
type Command struct {
	ID          string
	Status      CommandStatus
	Description CommandDescription
}

// A CommandDescription is what a command asks for (TS-0003 8.3.9.4). Exactly the
// field of its class is set; none is if the arguments could not be read.
type CommandDescription struct {
	Class CommandClass
	// Target is the entity that is meant, if a node acts for several.
	Target string

	NoMore      *NoMoreCommands
	Certificate *CertificateProvisioning
	Device      *DeviceConfiguration
	Node        *NodeProcessing
}

// NoMoreCommands is the class NO_MORE_COMMANDS (TS-0003 8.3.9.6): the client asks
// again after a time, in whole seconds.
type NoMoreCommands struct{ RetryAfter time.Duration }

// The protocols and subjects of certificate provisioning (TS-0003 12.3.2.5, 12.3.2.6).
const (
	ProtocolEST  = 1
	ProtocolSCEP = 2

	SubjectNode = 1
	SubjectCSE  = 2
	SubjectAE   = 3
)

// CertificateProvisioning is the class CERT_PROV (TS-0003 8.3.9.7).
type CertificateProvisioning struct {
	Protocol    int    // ProtocolEST or ProtocolSCEP
	URI         string // base URI, on the MEF's FQDN
	SubjectType int    // SubjectNode, SubjectCSE or SubjectAE
	SubjectID   string
}

// DeviceConfiguration is the class DEV_CFG (TS-0003 8.3.9.8).
type DeviceConfiguration struct {
	// URI is a number for the management technology from 1 to 4, a colon, and the
	// URI of the server, on the MEF's FQDN (TS-0003 12.2).
	URI string
}

// The types of nodes (TS-0003 12.3.2.7).
const (
	NodeAuthenticationProfile = 1
	NodeTrustAnchor           = 2
	NodeMAFClientRegistration = 3
)

// NodeProcessing is the class MO_NODE (TS-0003 8.3.9.9).
type NodeProcessing struct {
	Path  string
	Type  int         // NodeAuthenticationProfile, NodeTrustAnchor or NodeMAFClientRegistration
	Usage muster.SUID // set for an authentication profile alone
}

// ErrArguments is wrapped where a description has a class that is known and
// arguments that cannot be read.
var ErrArguments = errors.New("the arguments of the command cannot be read")

// Object returns the description as the attribute cmdDescription carries it.
//
// TS-0003 12.4.4, 12.4.5
func (d CommandDescription) Object() (primitive.Object, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	o := primitive.Object{primitive.MemberClass: int64(d.Class)}
	if d.Target != "" {
		o[primitive.MemberTarget] = d.Target
	}
	name, arguments := "", primitive.Object{}
	switch d.Class {
	case ClassNoMore:
		name, arguments[primitive.MemberRetryDuration] = primitive.MemberNoMore, formatDuration(d.NoMore.RetryAfter)
	case ClassCertificate:
		name = primitive.MemberCertificate
		arguments[primitive.MemberProtocol] = int64(d.Certificate.Protocol)
		arguments[primitive.MemberURI] = d.Certificate.URI
		arguments[primitive.MemberSubjectType] = int64(d.Certificate.SubjectType)
		arguments[primitive.MemberSubjectID] = d.Certificate.SubjectID
	case ClassDevice:
		name, arguments[primitive.MemberDeviceConfigURI] = primitive.MemberDevice, d.Device.URI
	case ClassNode:
		name = primitive.MemberNode
		arguments[primitive.MemberObjectPath] = d.Node.Path
		arguments[primitive.MemberObjectType] = int64(d.Node.Type)
		if d.Node.Type == NodeAuthenticationProfile {
			arguments[primitive.MemberObjectArguments] = primitive.Object{primitive.MemberUsage: int64(d.Node.Usage)}
		}
	}
	o[primitive.MemberArguments] = primitive.Object{name: arguments}
	return o, nil
}

// check refuses a description that a client could not read.
func (d CommandDescription) check() error {
	set := 0
	for _, present := range []bool{d.NoMore != nil, d.Certificate != nil, d.Device != nil, d.Node != nil} {
		if present {
			set++
		}
	}
	fits := d.Class == ClassNoMore && d.NoMore != nil || d.Class == ClassCertificate && d.Certificate != nil ||
		d.Class == ClassDevice && d.Device != nil || d.Class == ClassNode && d.Node != nil
	if set != 1 || !fits {
		return fmt.Errorf("a command of class %d has the arguments of another one, of none or of several", d.Class)
	}
	switch {
	case d.NoMore != nil && (d.NoMore.RetryAfter < 0 || d.NoMore.RetryAfter > maxRetry):
		return fmt.Errorf("the retry duration %s is not from 0 to ten years", d.NoMore.RetryAfter)
	case d.Node != nil && (d.Node.Type == NodeAuthenticationProfile) != (d.Node.Usage != 0):
		return errors.New("an SUID is for authentication profiles, and they need one")
	}
	return nil
}

// ParseCommandDescription reads what Object writes. It returns the class, and an
// error that wraps ErrArguments, where the arguments cannot be read; a class that
// is not known comes back without arguments and without an error.
func ParseCommandDescription(o primitive.Object) (CommandDescription, error) {
	class, ok := o[primitive.MemberClass].(int64)
	if !ok || class < 0 || class > 1<<16 {
		return CommandDescription{}, fmt.Errorf("%s is not a number", primitive.MemberClass)
	}
	d := CommandDescription{Class: CommandClass(class)}
	if target, present := o[primitive.MemberTarget]; present {
		if d.Target, ok = target.(string); !ok || len(d.Target) > primitive.MaxIdentifier {
			return CommandDescription{}, fmt.Errorf("%s is not an identifier", primitive.MemberTarget)
		}
	}
	if d.Class > ClassNode {
		return d, nil
	}
	all, _ := o[primitive.MemberArguments].(primitive.Object)
	if err := d.parseArguments(all); err != nil {
		return CommandDescription{Class: d.Class, Target: d.Target}, fmt.Errorf("%w: %w", ErrArguments, err)
	}
	return d, nil
}

func (d *CommandDescription) parseArguments(all primitive.Object) error {
	if len(all) != 1 {
		return fmt.Errorf("%s has not exactly one member", primitive.MemberArguments)
	}
	a := arguments{}
	switch d.Class {
	case ClassNoMore:
		a.from(all, primitive.MemberNoMore)
		var err error
		d.NoMore = new(NoMoreCommands)
		if d.NoMore.RetryAfter, err = parseDuration(a.text(primitive.MemberRetryDuration)); err != nil {
			return err
		}
	case ClassCertificate:
		a.from(all, primitive.MemberCertificate)
		d.Certificate = &CertificateProvisioning{
			Protocol: a.number(primitive.MemberProtocol), URI: a.text(primitive.MemberURI),
			SubjectType: a.number(primitive.MemberSubjectType), SubjectID: a.text(primitive.MemberSubjectID),
		}
	case ClassDevice:
		a.from(all, primitive.MemberDevice)
		d.Device = &DeviceConfiguration{a.text(primitive.MemberDeviceConfigURI)}
	case ClassNode:
		a.from(all, primitive.MemberNode)
		d.Node = &NodeProcessing{Path: a.text(primitive.MemberObjectPath), Type: a.number(primitive.MemberObjectType)}
		if d.Node.Type == NodeAuthenticationProfile {
			b := arguments{err: a.err}
			b.from(a.o, primitive.MemberObjectArguments)
			d.Node.Usage = muster.SUID(b.number(primitive.MemberUsage))
			a.err = b.err
		}
	}
	return a.err
}

// arguments reads members of an object and keeps the first thing that is wrong.
type arguments struct {
	o   primitive.Object
	err error
}

func (a *arguments) from(parent primitive.Object, name string) {
	o, ok := parent[name].(primitive.Object)
	if a.o = o; !ok {
		a.fail(name, "an object")
	}
}

func (a *arguments) fail(name, want string) {
	if a.err == nil {
		a.err = fmt.Errorf("%s is not %s", name, want)
	}
}

func (a *arguments) text(name string) string {
	s, ok := a.o[name].(string)
	if !ok || s == "" || len(s) > primitive.MaxIdentifier {
		a.fail(name, "a text of 1 to 512 octets")
	}
	return s
}

func (a *arguments) number(name string) int {
	n, ok := a.o[name].(int64)
	if !ok || n < 1 || n > 1<<16 {
		a.fail(name, "a number from 1 to 65536")
	}
	return int(n)
}

// MarshalText returns the description in JSON, for a store.
func (d CommandDescription) MarshalText() ([]byte, error) {
	o, err := d.Object()
	if err != nil {
		return nil, err
	}
	return primitive.NewContent(o).Encode(primitive.JSON)
}

// UnmarshalText reads what MarshalText wrote.
func (d *CommandDescription) UnmarshalText(text []byte) error {
	o, err := primitive.RawContent(primitive.JSON, text).Object()
	if err == nil {
		*d, err = ParseCommandDescription(o)
	}
	return err
}
