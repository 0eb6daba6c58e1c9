// Package console is the interface for the operators of a MEF or MAF: HTTPS with
// TLS 1.3, where a client certificate, by name and root together, leads to a role.
// Only liveness is answered without one. Every refusal is a problem of RFC 9457
// with Muster's code, its rule and a remedy. openapi.json describes it all and is
// served.
package console
