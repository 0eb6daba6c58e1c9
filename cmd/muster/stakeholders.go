package main

import (
	"muster"
	"muster/tef"
)

// A stakeholderConfig is an administrating stakeholder that admits some clients
// only, or has a configuration for them.
type stakeholderConfig struct {
	// FQDN is the stakeholder, which clients name as adminFQDN.
	FQDN muster.FQDN `yaml:"fqdn"`
	// Clients are the Enrolee-IDs that may register for it; empty admits all.
	Clients []muster.EnroleeID `yaml:"clients"`
	// Labels are those with which its clients are to register.
	Labels []string `yaml:"labels"`
	// Keys are those that its clients are to register with the function.
	Keys []keyConfig `yaml:"keys"`
}

// A keyConfig is a key that a client is to register.
type keyConfig struct {
	// SUID is the usage: 21 to 25 at a MEF, 32 to 35 at a MAF.
	SUID int `yaml:"suid"`
	// Targets are the Enrolee-IDs, or for SUID 21 the MAF-ID, for which the key is.
	Targets []string `yaml:"targets"`
	// Labels are given to the registration of the key.
	Labels []string `yaml:"labels"`
}

// stakeholders makes of the configuration what a function asks at each request.
func stakeholders(configs []stakeholderConfig) ([]tef.Stakeholder, error) {
	var all []tef.Stakeholder
	for _, c := range configs {
		if c.FQDN.IsZero() {
			return nil, configErrorf("a stakeholder has no fqdn")
		}
		for _, key := range c.Keys {
			if key.SUID < 21 || key.SUID > 35 {
				return nil, configErrorf("the stakeholder %s wants a key of SUID %d, which no function distributes", c.FQDN, key.SUID)
			}
		}
		all = append(all, c.stakeholder())
	}
	return all, nil
}

func (c stakeholderConfig) stakeholder() tef.Stakeholder {
	s := tef.Stakeholder{FQDN: c.FQDN}
	if len(c.Clients) > 0 {
		admitted := make(map[muster.EnroleeID]bool, len(c.Clients))
		for _, id := range c.Clients {
			admitted[id] = true
		}
		s.Admits = func(id muster.EnroleeID) bool { return admitted[id] }
	}
	if len(c.Keys) > 0 || len(c.Labels) > 0 {
		s.Configuration = func(muster.EnroleeID) (tef.ClientConfiguration, bool) {
			wanted := tef.ClientConfiguration{Labels: c.Labels}
			for _, key := range c.Keys {
				wanted.Keys = append(wanted.Keys, tef.KeyConfiguration{Usage: muster.SUID(key.SUID), Targets: key.Targets, Labels: key.Labels})
			}
			return wanted, true
		}
	}
	return s
}
