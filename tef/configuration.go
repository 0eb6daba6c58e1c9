package tef

import (
	"errors"
	"fmt"
	"time"

	"muster"
	"muster/primitive"
)

// A Stakeholder is an administrating stakeholder, for which some clients may
// register with a function. Its functions may be called by many goroutines at
// once.
type Stakeholder struct {
	FQDN muster.FQDN
	// Admits reports whether a client may register; nil admits every client.
	Admits func(client muster.EnroleeID) bool
	// Configuration returns what the stakeholder wants of a client, if anything;
	// nil is the same as a function that has nothing for anybody.
	Configuration func(client muster.EnroleeID) (ClientConfiguration, bool)
}

// A ClientConfiguration is what an administrating stakeholder tells a client
// through its MEF or MAF: how to register, and which keys (TS-0003 12.4.2).
type ClientConfiguration struct {
	Function      muster.FQDN // as the next two, filled in by the function
	AdminFQDN     muster.FQDN
	Expires       time.Time // zero if it does not expire
	Labels        []string
	HTTPPort      int // 0 for none, as the next two
	CoAPPort      int
	WebSocketPort int
	Keys          []KeyConfiguration
}

// A KeyConfiguration says which key a client is to register (TS-0003 12.4.3).
type KeyConfiguration struct {
	Usage   muster.SUID
	Targets []string
	Labels  []string
	Expires time.Time // zero for the function's choice
}

// configuration returns what the stakeholder of a registration wants of its client.
func (s *Service) configuration(client muster.EnroleeID, admin muster.FQDN) (ClientConfiguration, bool) {
	for _, stakeholder := range s.Stakeholders {
		if stakeholder.FQDN == admin && stakeholder.Configuration != nil {
			c, ok := stakeholder.Configuration(client)
			c.Function, c.AdminFQDN = s.FQDN, admin
			return c, ok
		}
	}
	return ClientConfiguration{}, false
}

// serveConfiguration answers the retrieval of a client configuration. A client
// for which there is none gets an error.
//
// TS-0003 8.3.5.2.4, 8.8.2.4
func (s *Service) serveConfiguration(r *primitive.Request, registration ClientRegistration) (*primitive.Response, error) {
	if r.Operation != primitive.Retrieve {
		return nil, &primitive.Error{Status: primitive.OperationNotAllowed}
	}
	c, ok := s.configuration(registration.ClientID, registration.AdminFQDN)
	if !ok {
		return nil, &primitive.Error{Status: primitive.NotFound}
	}
	resource := primitive.NewResource(primitive.KindClientCfg).
		Set(primitive.ResourceType, int64(s.Wire.Type(primitive.KindClientCfg))).
		Set(primitive.FQDN, c.Function).
		Set(primitive.AdminFQDN, c.AdminFQDN)
	if !c.Expires.IsZero() {
		resource.Set(primitive.ExpirationTime, c.Expires)
	}
	if len(c.Labels) > 0 {
		resource.Set(primitive.Labels, c.Labels)
	}
	for attribute, port := range c.ports() {
		if *port > 0 {
			resource.Set(attribute, int64(*port))
		}
	}
	if len(c.Keys) > 0 {
		keys := make([]primitive.Object, len(c.Keys))
		for i, key := range c.Keys {
			keys[i] = key.object(c.AdminFQDN)
		}
		resource.Set(primitive.KeyConfigurations, keys)
	}
	content, err := s.Wire.Encode(resource)
	return &primitive.Response{Status: primitive.OK, Content: content}, err
}

func (c *ClientConfiguration) ports() map[primitive.Attribute]*int {
	return map[primitive.Attribute]*int{
		primitive.HTTPPort: &c.HTTPPort, primitive.CoAPPort: &c.CoAPPort, primitive.WebSocketPort: &c.WebSocketPort,
	}
}

// object writes a key configuration with the long names of TS-0003 12.4.3.
func (k KeyConfiguration) object(admin muster.FQDN) primitive.Object {
	o := primitive.Object{string(primitive.AdminFQDN): admin.String(), string(primitive.SecurityUsage): int64(k.Usage)}
	if len(k.Targets) > 0 {
		o[string(primitive.TargetIDs)] = texts(k.Targets)
	}
	if len(k.Labels) > 0 {
		o[string(primitive.Labels)] = texts(k.Labels)
	}
	if !k.Expires.IsZero() {
		o[string(primitive.ExpirationTime)] = primitive.FormatTimestamp(k.Expires)
	}
	return o
}

func texts(list []string) []any {
	out := make([]any, len(list))
	for i := range list {
		out[i] = list[i]
	}
	return out
}

// ParseConfiguration returns the client configuration in a function's answer. An
// answer that reports a failure is returned as a *primitive.Error.
func ParseConfiguration(wire *primitive.Wire, response *primitive.Response) (ClientConfiguration, error) {
	if err := response.Err(); err != nil {
		return ClientConfiguration{}, err
	}
	resource, err := wire.DecodeRepresentation(primitive.KindClientCfg, response.Content)
	if err != nil {
		return ClientConfiguration{}, err
	}
	var c ClientConfiguration
	c.Function, _ = primitive.Get[muster.FQDN](resource, primitive.FQDN)
	c.AdminFQDN, _ = primitive.Get[muster.FQDN](resource, primitive.AdminFQDN)
	c.Expires, _ = primitive.Get[time.Time](resource, primitive.ExpirationTime)
	c.Labels, _ = primitive.Get[[]string](resource, primitive.Labels)
	if c.Function.IsZero() || c.AdminFQDN.IsZero() {
		return ClientConfiguration{}, fmt.Errorf("the configuration lacks %s or %s", primitive.FQDN, primitive.AdminFQDN)
	}
	for attribute, port := range c.ports() {
		n, _ := primitive.Get[int64](resource, attribute)
		if n > 65535 {
			return ClientConfiguration{}, fmt.Errorf("%s is %d, not a port", attribute, n)
		}
		*port = int(n)
	}
	keys, _ := primitive.Get[[]primitive.Object](resource, primitive.KeyConfigurations)
	for _, o := range keys {
		key, err := parseKeyConfiguration(o)
		if err != nil {
			return ClientConfiguration{}, err
		}
		c.Keys = append(c.Keys, key)
	}
	return c, nil
}

func parseKeyConfiguration(o primitive.Object) (KeyConfiguration, error) {
	usage, ok := o[string(primitive.SecurityUsage)].(int64)
	if !ok || usage < 1 || usage > 1<<16 {
		return KeyConfiguration{}, fmt.Errorf("%s of a key configuration is not a number", primitive.SecurityUsage)
	}
	k := KeyConfiguration{Usage: muster.SUID(usage)}
	var err1, err2, err3 error
	k.Targets, err1 = parseTexts(o, primitive.TargetIDs)
	k.Labels, err2 = parseTexts(o, primitive.Labels)
	if text, present := o[string(primitive.ExpirationTime)]; present {
		s, _ := text.(string)
		k.Expires, err3 = primitive.ParseTimestamp(s)
	}
	return k, errors.Join(err1, err2, err3)
}

func parseTexts(o primitive.Object, a primitive.Attribute) ([]string, error) {
	value, present := o[string(a)]
	if !present {
		return nil, nil
	}
	list, ok := value.([]any)
	if !ok {
		return nil, fmt.Errorf("%s of a key configuration is not a list", a)
	}
	out := make([]string, len(list))
	for i := range list {
		if out[i], ok = list[i].(string); !ok {
			return nil, fmt.Errorf("%s of a key configuration has an element that is no text", a)
		}
	}
	return out, nil
}
