// Package revocation answers the status question of package cert: is a
// certificate of a path that is valid otherwise revoked (TS-0003 8.1.2.2)?
//
// A Checker reads CRLs from files and, if it is told to, from URLs, asks OCSP
// responders, and remembers what it learned. Its Status fits cert.Trust.Status,
// so that TLS and DTLS ask alike, after path validation and within a deadline:
// no answer in time is no answer, which the caller's Mode weighs.
//
// A URL in a certificate is a request to connect somewhere on behalf of whoever
// wrote it. So none is followed unless Config.Follow is set; then only http and
// https, only to public addresses as they were resolved for that very
// connection, only to ports 80 and 443, without redirects, with bounds on size,
// time and number.
package revocation
