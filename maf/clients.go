package maf

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"muster"
	"muster/cert"
)

// A Client is a MAF client that authenticates by a certificate in place of a
// Master Credential (TS-0003 8.8.2.2). No KmID is assigned to it.
type Client struct {
	// Certificate is the name that the client's certificate carries, and Anchors
	// are the roots, at least one, under which that name is meant.
	Certificate muster.CertName
	Anchors     []*x509.Certificate
	// EnroleeID is the Absolute AE-ID or CSE-ID of the client.
	EnroleeID muster.EnroleeID
	// Lifetime is how long a registration or key of the client lasts at most
	// after the request by which it was made or changed.
	Lifetime time.Duration
	// Status, if not nil, is asked about the certificates of a valid path, as
	// cert.Trust.Status is.
	Status func(path []*x509.Certificate, now time.Time) cert.Findings
}

func (c *Client) pins(anchor muster.Digest) bool {
	return slices.ContainsFunc(c.Anchors, func(root *x509.Certificate) bool { return anchorOf(root) == anchor })
}

func anchorOf(root *x509.Certificate) muster.Digest {
	return muster.DigestOf(root.RawSubjectPublicKeyInfo)
}

// clients finds who a name under a root is. It does not change once it is made.
type clients map[muster.CertName][]*Client

func newClients(list []Client) (clients, error) {
	all, owners := clients{}, map[muster.EnroleeID]bool{}
	for i := range list {
		c := &list[i]
		switch {
		case c.Certificate.IsZero() || c.EnroleeID.IsZero() || len(c.Anchors) == 0:
			return nil, fmt.Errorf("the client %s (%s) lacks its name, trust anchor or Enrolee-ID", c.Certificate, c.EnroleeID)
		case c.Lifetime < time.Second:
			return nil, fmt.Errorf("the client %s has the lifetime %s, less than a second", c.EnroleeID, c.Lifetime)
		case owners[c.EnroleeID]:
			return nil, fmt.Errorf("two clients are %s", c.EnroleeID)
		}
		owners[c.EnroleeID] = true
		for _, root := range c.Anchors {
			if other := all.find(c.Certificate, anchorOf(root)); other != nil {
				return nil, fmt.Errorf("the clients %s and %s both pin %s under the root %q", other.EnroleeID, c.EnroleeID, c.Certificate, root.Subject)
			}
		}
		all[c.Certificate] = append(all[c.Certificate], c)
	}
	return all, nil
}

// hasClient reports whether an Enrolee-ID is that of a client with a certificate.
func (f *Function) hasClient(id muster.EnroleeID) bool {
	return slices.ContainsFunc(f.config.Clients, func(c Client) bool { return c.EnroleeID == id })
}

// find returns the client of a name under a root, or nil.
func (c clients) find(name muster.CertName, anchor muster.Digest) *Client {
	for _, client := range c[name] {
		if client.pins(anchor) {
			return client
		}
	}
	return nil
}

// VerifyPeer judges the certificate of a MAF client within its handshake: the
// first of its names that a client is configured with must be meant under the
// root at which the chain ends. The error is a muster.Refusal.
//
// TS-0003 8.1.2.5, 8.8.2.2
func (f *Function) VerifyPeer(chain []*x509.Certificate, now time.Time) (muster.Peer, error) {
	if len(chain) == 0 {
		return muster.Peer{}, muster.Refuse(muster.CodeNoCertificate, "the peer sent no certificate")
	}
	names, err := cert.Names(chain[0])
	if err != nil {
		return muster.Peer{}, err
	}
	trust := cert.Trust{Intermediates: f.config.Intermediates, Usage: cert.UsageClient, Profile: f.config.Profile}
	known := slices.IndexFunc(names, func(name muster.CertName) bool { return len(f.clients[name]) > 0 })
	if known < 0 {
		_, findings := cert.Verify(chain, trust, now) // which may have more to say than that
		if err := findings.Err(); muster.CodeOf(err) != muster.CodeNameUnknown {
			return muster.Peer{}, err
		}
		return muster.Peer{}, muster.Refuse(muster.CodeNameUnknown, "no client has this certificate; its first name is %.200q", first(names))
	}
	trust.Name = names[known]
	for _, client := range f.clients[trust.Name] {
		trust.Anchors = append(trust.Anchors, client.Anchors...)
	}
	trust.Status = func(path []*x509.Certificate) cert.Findings {
		client := f.clients.find(trust.Name, anchorOf(path[len(path)-1]))
		if client == nil || client.Status == nil {
			return nil
		}
		return client.Status(path, now)
	}
	peer, findings := cert.Verify(chain, trust, now)
	return peer, findings.Err()
}

func first(names []muster.CertName) string {
	if len(names) == 0 {
		return ""
	}
	return names[0].String()
}

// byCertificate returns the credential of a session without a psk_identity: it
// has neither key nor identifiers, and ends when what the client makes now ends.
func (f *Function) byCertificate(session *muster.Session, now time.Time) (Credential, error) {
	peer := session.Peer
	client := f.clients.find(peer.Name, peer.Anchor)
	if client == nil {
		return Credential{}, muster.Refuse(muster.CodeNameUnknown, "no client is %s", peer.Name)
	}
	return Credential{EnroleeID: client.EnroleeID, MAF: f.config.FQDN, Created: now, Expires: now.Add(client.Lifetime)}, nil
}
