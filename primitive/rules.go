package primitive

// A Presence says whether a request carries an attribute.
type Presence int

// The presences, as the attribute tables of oneM2M abbreviate them: M, O, NP.
const (
	NotPermitted Presence = iota
	Optional
	Mandatory
)

// A Rule is a line of an attribute table. An attribute that is permitted in
// neither request is read-only: the function sets it and shows it in answers.
type Rule struct {
	Attribute Attribute
	Type      ValueType
	Create    Presence
	Update    Presence
}

// presence returns what the rule says for a request; only creates and updates
// carry attributes.
func (r Rule) presence(op Operation) Presence {
	switch op {
	case Create:
		return r.Create
	case Update:
		return r.Update
	}
	return NotPermitted
}

// Rules returns the attribute table of a kind: nil if there is no such kind. The
// attributes of TS-0003 8.3.4, 8.3.5 and 8.8 stand beside those that every
// resource has. A client cannot choose resourceName.
func Rules(k Kind) []Rule {
	universal := []Rule{
		{ResourceID, TypeText, NotPermitted, NotPermitted},
		{ResourceName, TypeText, NotPermitted, NotPermitted},
		{ResourceType, TypeNumber, NotPermitted, NotPermitted},
		{ParentID, TypeText, NotPermitted, NotPermitted},
		{CreationTime, TypeTimestamp, NotPermitted, NotPermitted},
		{LastModifiedTime, TypeTimestamp, NotPermitted, NotPermitted},
		{ChildResource, TypeReferences, NotPermitted, NotPermitted},
	}
	own := map[Kind][]Rule{
		KindMAFBase: {
			{FQDN, TypeFQDN, NotPermitted, NotPermitted},
			{SupportedReleaseVersions, TypeTexts, NotPermitted, NotPermitted},
			{PointOfAccess, TypeTexts, NotPermitted, NotPermitted},
		},
		KindMEFBase: {
			{FQDN, TypeFQDN, NotPermitted, NotPermitted},
			{SupportedReleaseVersions, TypeTexts, NotPermitted, NotPermitted},
			{PointOfAccess, TypeTexts, NotPermitted, NotPermitted},
			{DeviceConfigURI, TypeText, NotPermitted, NotPermitted},
		},
		KindMAFClientReg: append(clientRegistration(), Rule{AssignedSymmKeyID, TypeText, NotPermitted, NotPermitted}),
		KindMEFClientReg: clientRegistration(),
		KindSymmKeyReg: {
			{ExpirationTime, TypeTimestamp, Optional, Optional},
			{Labels, TypeTexts, Optional, Optional},
			{AdminFQDN, TypeFQDN, Mandatory, NotPermitted},
			{SecurityUsage, TypeNumber, Mandatory, NotPermitted},
			{TargetIDs, TypeTexts, Optional, Optional},
			{KeyValue, TypeKey, Optional, NotPermitted},
			{SourceClientID, TypeText, NotPermitted, NotPermitted},
		},
		KindClientCfg: {
			{FQDN, TypeFQDN, NotPermitted, NotPermitted},
			{AdminFQDN, TypeFQDN, NotPermitted, NotPermitted},
			{ExpirationTime, TypeTimestamp, NotPermitted, NotPermitted},
			{Labels, TypeTexts, NotPermitted, NotPermitted},
			{HTTPPort, TypeNumber, NotPermitted, NotPermitted},
			{CoAPPort, TypeNumber, NotPermitted, NotPermitted},
			{WebSocketPort, TypeNumber, NotPermitted, NotPermitted},
			{KeyConfigurations, TypeObjects, NotPermitted, NotPermitted},
		},
		KindMEFClientCmd: {
			{CommandID, TypeText, NotPermitted, Mandatory},
			{CommandDescription, TypeObject, NotPermitted, NotPermitted},
			{CommandStatusCode, TypeNumber, NotPermitted, Mandatory},
		},
	}
	rules, ok := own[k]
	if !ok {
		return nil
	}
	return append(universal, rules...)
}

// TS-0003 8.3.5.2.3, 8.8.2.3
func clientRegistration() []Rule {
	return []Rule{
		{ExpirationTime, TypeTimestamp, Optional, Optional},
		{Labels, TypeTexts, Optional, Optional},
		{AdminFQDN, TypeFQDN, Mandatory, NotPermitted},
		{FQDN, TypeFQDN, Mandatory, NotPermitted},
		{ClientID, TypeText, NotPermitted, NotPermitted},
	}
}

func ruleFor(k Kind, a Attribute) (Rule, bool) {
	for _, rule := range Rules(k) {
		if rule.Attribute == a {
			return rule, true
		}
	}
	return Rule{}, false
}
