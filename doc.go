// Package muster is the vocabulary and the key schedule of oneM2M's
// certificate-based remote security provisioning (TS-0003 8.3.2.2): identifiers,
// keys that cannot be printed, the derivations, and the Session by which the
// procedures know a transport.
//
// # The three parties
//
// A device, the Enrolee, leaves the factory with a certificate. It makes one
// handshake with an M2M Enrolment Function, from which both export an Enrolment
// Key, Ke, and its identifier, KeID. From Ke the device derives a Master
// Credential, Km, for an M2M Authentication Function, and goes there with KeID as
// its psk_identity. Within that handshake the MAF fetches Km from the MEF. It
// registers the device and assigns a KmID, by which the device comes from then
// on.
//
// # What a device calls
//
// Package enrolee has it: New, then Ensure for one session or Maintain to stay
// enrolled. Package enrolee/dialer brings the connections, package
// enrolee/keyring keeps the credentials in a file; either can be replaced.
//
// # What a server embeds
//
// A mef.Function or maf.Function, between a handshake and a store:
//
//	VerifyPeer or PSK    inside the handshake: who is it?
//	Established          after it: record, durably
//	Serve                each request
//
// Packages handshake, handshake/dtls12 and handshake/tlspsk make sessions,
// packages binding and binding/coap carry requests, package sqlite keeps state.
// Command muster puts them together and is the example to follow.
//
// # Where state lives
//
// In a Store on the servers and in a Keyring on the device, and nowhere else. A
// record is durable before its consequence is visible to a peer. Keys in either
// are sealed by package seal.
package muster
