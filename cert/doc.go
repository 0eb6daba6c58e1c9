// Package cert decides whom a certificate chain names and whether to believe it.
//
// A side of a handshake is configured with a name, the trust anchors pinned
// together with it, and a role (Trust). Verify looks for the name in the leaf,
// holds the certificates against the profile of TS-0003 10.1.1 and validates
// the path, in the order of TS-0003 8.1.2.5; it returns the peer, or findings
// with stable codes that say what failed. The package reads no clock, file or
// socket: time and randomness are arguments. All of its functions may be called
// from several goroutines.
//
// The names that a certificate can carry have one canonical text for each
// flavour, which ParseName and Names define. The templates in this package
// issue certificates that conform to the same profile.
package cert
