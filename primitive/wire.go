package primitive

import (
	"fmt"
	"maps"
	"strings"
)

// A Kind is a resource type, by its long name in TS-0032.
type Kind string

// The kinds of resources.
const (
	KindMAFBase      Kind = "MAFBase"
	KindMAFClientReg Kind = "mafClientReg"
	KindMEFBase      Kind = "MEFBase"
	KindMEFClientReg Kind = "mefClientReg"
	KindMEFClientCmd Kind = "mefClientCmd"
	KindSymmKeyReg   Kind = "symmKeyReg"
	// KindClientCfg is what a client configuration is shown as, though it is no
	// resource that could be created (TS-0003 12.4.2).
	KindClientCfg Kind = "clientCfg"
)

// An Attribute is an attribute of a resource, by its long name.
type Attribute string

// The attributes.
const (
	ResourceID               Attribute = "resourceID"
	ResourceName             Attribute = "resourceName"
	ResourceType             Attribute = "resourceType"
	ParentID                 Attribute = "parentID"
	CreationTime             Attribute = "creationTime"
	LastModifiedTime         Attribute = "lastModifiedTime"
	ExpirationTime           Attribute = "expirationTime"
	Labels                   Attribute = "labels"
	SupportedReleaseVersions Attribute = "supportedReleaseVersions"
	PointOfAccess            Attribute = "pointOfAccess"
	DeviceConfigURI          Attribute = "deviceConfigURI"
	FQDN                     Attribute = "fqdn"
	AdminFQDN                Attribute = "adminFQDN"
	ClientID                 Attribute = "clientID"
	AssignedSymmKeyID        Attribute = "assignedSymmKeyID"
	SecurityUsage            Attribute = "SUID"
	TargetIDs                Attribute = "targetIDs"
	KeyValue                 Attribute = "keyValue"
	SourceClientID           Attribute = "sourceClientID"
	CommandID                Attribute = "cmdID"
	CommandDescription       Attribute = "cmdDescription"
	CommandStatusCode        Attribute = "cmdStatusCode"
	ChildResource            Attribute = "childResource"
	HTTPPort                 Attribute = "httpPort"
	CoAPPort                 Attribute = "coapPort"
	WebSocketPort            Attribute = "websocketPort"
	KeyConfigurations        Attribute = "keyRegCfg"
)

// The names of the children that a client registration has one of: the client
// command, and the client configuration.
const (
	NameCommand       = "cmd"
	NameConfiguration = "cfg"
)

// The members of a command's description and of its arguments. TS-0003 has long
// names only.
//
// TS-0003 12.4.4 to 12.4.10
const (
	MemberClass           = "cmdClassID"
	MemberArguments       = "cmdArgs"
	MemberTarget          = "targetID"
	MemberNoMore          = "noMoreCmdArgs"
	MemberRetryDuration   = "retryDuration"
	MemberCertificate     = "certProvCmdArgs"
	MemberProtocol        = "certProvProtocolID"
	MemberURI             = "URI"
	MemberSubjectType     = "certSubjectType"
	MemberSubjectID       = "certSubjectID"
	MemberDevice          = "devCfgCmdArgs"
	MemberDeviceConfigURI = "deviceConfigURI"
	MemberNode            = "MONodeCmdArgs"
	MemberObjectPath      = "objectPath"
	MemberObjectType      = "objectTypeID"
	MemberObjectArguments = "objectTypeSpecifcArgs" // spelt so in the text
	MemberUsage           = "SUID"
)

// The members of a child resource reference (TS-0004 8.2.5).
const (
	memberName  = "nm"
	memberType  = "typ"
	memberValue = "val"
)

const (
	defaultBase         = "-"
	longNamePrefix      = "sec:"
	largestResourceType = 65535 // the CoAP option has two octets
)

// A KindName is how a kind appears on the wire.
type KindName struct {
	Type int    // resource type number, 1 to 65535
	Root string // name of the root member of a content, with its prefix
}

// A Wire is the table of the names and numbers that TS-0032 gives to the
// resources. The text of TS-0032 is not public in a form that could be checked,
// so every one of them stands here and can be replaced. A Wire does not change
// once NewWire has returned it.
type Wire struct {
	base       string
	kinds      map[Kind]KindName
	attributes map[Attribute]string // short names
	byRoot     map[string]Kind
	byType     map[int]Kind
	byName     map[string]Attribute // short and long names
}

// A WireConfig replaces entries of the default table. Its zero value replaces none.
type WireConfig struct {
	Base       string               // path segments of the base resource, without a slash at either end
	Kinds      map[Kind]KindName    // complete entries
	Attributes map[Attribute]string // short names
}

func defaultKinds() map[Kind]KindName {
	return map[Kind]KindName{
		KindMAFBase:      {60001, "sec:mafb"},
		KindMAFClientReg: {60002, "sec:macr"},
		KindMEFBase:      {60003, "sec:mefb"},
		KindMEFClientReg: {60004, "sec:mecr"},
		KindMEFClientCmd: {60005, "sec:mecc"},
		KindSymmKeyReg:   {60006, "sec:skr"},
		KindClientCfg:    {60007, "sec:ccfg"},
	}
}

// defaultAttributes has the short names of TS-0004 8.2.3 where it has the
// attribute.
func defaultAttributes() map[Attribute]string {
	return map[Attribute]string{
		ResourceID:               "ri",
		ResourceName:             "rn",
		ResourceType:             "ty",
		ParentID:                 "pi",
		CreationTime:             "ct",
		LastModifiedTime:         "lt",
		ExpirationTime:           "et",
		Labels:                   "lbl",
		SupportedReleaseVersions: "srv",
		PointOfAccess:            "poa",
		DeviceConfigURI:          "dcu",
		FQDN:                     "fq",
		AdminFQDN:                "adfq",
		ClientID:                 "cid",
		AssignedSymmKeyID:        "aski",
		SecurityUsage:            "suid",
		TargetIDs:                "tgis",
		KeyValue:                 "kv",
		SourceClientID:           "scid",
		CommandID:                "cmi",
		CommandDescription:       "cmd",
		CommandStatusCode:        "csc",
		ChildResource:            "ch",
		HTTPPort:                 "hpt",
		CoAPPort:                 "cpt",
		WebSocketPort:            "wpt",
		KeyConfigurations:        "krc",
	}
}

// NewWire returns the default table with the replacements of a configuration. It
// is an error to name a kind or an attribute that does not exist, or to give one
// name or number to two.
func NewWire(c WireConfig) (*Wire, error) {
	w := &Wire{
		base:       defaultBase,
		kinds:      defaultKinds(),
		attributes: defaultAttributes(),
		byRoot:     map[string]Kind{},
		byType:     map[int]Kind{},
		byName:     map[string]Attribute{},
	}
	if c.Base != "" {
		w.base = c.Base
	}
	for _, segment := range strings.Split(w.base, "/") {
		if segment == "~" || segment == "_" || !isSegment(segment) {
			return nil, fmt.Errorf("the base path %q has the segment %q", w.base, segment)
		}
	}
	for kind := range c.Kinds {
		if _, ok := w.kinds[kind]; !ok {
			return nil, fmt.Errorf("%q is not a kind of resource", kind)
		}
	}
	for attribute := range c.Attributes {
		if _, ok := w.attributes[attribute]; !ok {
			return nil, fmt.Errorf("%q is not an attribute", attribute)
		}
	}
	maps.Copy(w.kinds, c.Kinds)
	maps.Copy(w.attributes, c.Attributes)
	return w, w.index()
}

func (w *Wire) index() error {
	for kind, name := range w.kinds {
		if name.Type < 1 || name.Type > largestResourceType || name.Root == "" {
			return fmt.Errorf("%s has no root name or a number outside 1 to %d", kind, largestResourceType)
		}
		for _, root := range []string{name.Root, longNamePrefix + string(kind)} {
			if other, twice := w.byRoot[root]; twice && other != kind {
				return fmt.Errorf("%s and %s are both called %q", kind, other, root)
			}
			w.byRoot[root] = kind
		}
		if other, twice := w.byType[name.Type]; twice {
			return fmt.Errorf("%s and %s both have the number %d", kind, other, name.Type)
		}
		w.byType[name.Type] = kind
	}
	for attribute, short := range w.attributes {
		for _, name := range []string{short, string(attribute)} {
			if other, twice := w.byName[name]; name == "" || twice && other != attribute {
				return fmt.Errorf("the attribute %s has the name %q, which is empty or that of %q", attribute, name, other)
			}
			w.byName[name] = attribute
		}
	}
	return nil
}

// Base returns the To of the base resource.
func (w *Wire) Base() string { return w.base }

// Type returns the resource type number of a kind, 0 if there is no such kind.
func (w *Wire) Type(k Kind) int { return w.kinds[k].Type }

// KindOf returns the kind with a resource type number.
func (w *Wire) KindOf(resourceType int) (Kind, bool) {
	k, ok := w.byType[resourceType]
	return k, ok
}

// To returns the To of a resource below the base, by its identifiers from the top.
func (w *Wire) To(ids ...string) string { return strings.Join(append([]string{w.base}, ids...), "/") }

// ParseTo returns the identifiers of the resource that a To names, from the top:
// none for the base. The To may also have the absolute form with the FQDN of this
// function: "//fqdn/" and the rest. ok is false for every other To, and the answer
// to it is NotFound.
func (w *Wire) ParseTo(to, fqdn string) (ids []string, ok bool) {
	if rest, absolute := strings.CutPrefix(to, "//"); absolute {
		var host string
		if host, to, ok = strings.Cut(rest, "/"); !ok || host != fqdn {
			return nil, false
		}
	}
	if to == w.base {
		return nil, true
	}
	rest, ok := strings.CutPrefix(to, w.base+"/")
	if !ok {
		return nil, false
	}
	ids = strings.Split(rest, "/")
	for _, id := range ids {
		if !isSegment(id) {
			return nil, false
		}
	}
	return ids, len(ids) <= 2
}

// isSegment accepts the unreserved characters of a URI (RFC 3986) and the at sign.
func isSegment(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > 128 {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~@") == ""
}

// PathTo turns the path segments of a binding into a To, undoing the escapes by
// which they carry the three forms of an identifier (TS-0008 6.2.2.3, TS-0009
// 6.2.2.1). Its error is an *Error.
func PathTo(segments []string) (string, error) {
	size := 0
	for _, segment := range segments {
		size += len(segment) + 1
		if segment == "" || strings.ContainsAny(segment, "/#?") {
			return "", &Error{Status: BadRequest, Detail: "the path has an empty segment or a separator in one"}
		}
	}
	if size > MaxIdentifier {
		return "", &Error{Status: BadRequest, Detail: fmt.Sprintf("the path exceeds %d octets", MaxIdentifier)}
	}
	if len(segments) > 0 {
		switch segments[0] {
		case "~":
			return "/" + strings.Join(segments[1:], "/"), nil
		case "_":
			return "//" + strings.Join(segments[1:], "/"), nil
		}
	}
	return strings.Join(segments, "/"), nil
}

// ToPath is the inverse of PathTo.
func ToPath(to string) []string {
	if rest, ok := strings.CutPrefix(to, "//"); ok {
		return append([]string{"_"}, strings.Split(rest, "/")...)
	}
	if rest, ok := strings.CutPrefix(to, "/"); ok {
		return append([]string{"~"}, strings.Split(rest, "/")...)
	}
	return strings.Split(to, "/")
}
