// Package console is the interface for the operators of a MEF or MAF: HTTPS with
// TLS 1.3, where a client certificate, by name and root together, leads to a role.
// Only liveness, the page to sign in and what it looks like are answered without
// one. For programs, every refusal is a problem of RFC 9457
// with Muster's code, its rule and a remedy. openapi.json describes it all and is
// served. For browsers there are pages, rendered here, that do the same with the same
// rights; a session begins with a one-time token, and ends with the process.
package console
