package muster

import (
	"errors"
	"fmt"
)

// A Code is the stable name of a reason for a refusal. Codes are part of the
// interface: logs, exit messages, metrics and documentation use them, and a code
// once published keeps its meaning.
type Code string

// A Refusal is an error that says no to a peer. Its text is for the operator of
// the side that refuses; what the peer learns is decided where the refusal
// becomes an alert or a response, and is never this text.
type Refusal struct {
	Code   Code
	Detail string
	cause  error
}

// Refuse returns a Refusal. A %w in format makes the wrapped error reachable.
func Refuse(code Code, format string, args ...any) *Refusal {
	err := fmt.Errorf(format, args...)
	return &Refusal{code, err.Error(), errors.Unwrap(err)}
}

// Error returns the code and the detail.
func (r *Refusal) Error() string { return string(r.Code) + ": " + r.Detail }

// Unwrap returns the error that the detail wraps, if any.
func (r *Refusal) Unwrap() error { return r.cause }

// CodeOf returns the code of the Refusal in err's tree, and "" without one.
func CodeOf(err error) Code {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Code
	}
	return ""
}

// The codes for certificates, in the order in which they are examined.
const (
	CodeNoCertificate        Code = "no-certificate"
	CodeChainTooLong         Code = "chain-too-long"
	CodeCertificateTooLarge  Code = "certificate-too-large"
	CodeCertificateMalformed Code = "certificate-malformed"
	CodeNameUnknown          Code = "name-unknown"
	CodeNameMismatch         Code = "name-mismatch"
	CodeNameWildcard         Code = "name-wildcard"
	CodeNameOnlyInCN         Code = "name-only-in-cn"
	CodeAnchorMismatch       Code = "anchor-mismatch"
	CodeNotYetValid          Code = "not-yet-valid"
	CodeExpired              Code = "expired"
	CodeKeyUsage             Code = "key-usage"
	CodeExtendedKeyUsage     Code = "extended-key-usage"
	CodeCAAsLeaf             Code = "ca-as-leaf"
	CodeKeyAlgorithm         Code = "key-algorithm"
	CodeSignatureAlgorithm   Code = "signature-algorithm"
	CodeNameConstraints      Code = "name-constraints"
	CodeCriticalExtension    Code = "critical-extension"
	CodePathInvalid          Code = "path-invalid"
	CodeRevoked              Code = "revoked"
	CodeStatusUnknown        Code = "status-unknown"
	CodeEnroleeID            Code = "enrolee-id"
	CodeBanned               Code = "banned"
	CodeSuspended            Code = "suspended"
)

// The codes for handshakes.
const (
	CodeNoExtendedMasterSecret Code = "no-extended-master-secret"
	CodeProtocolVersion        Code = "protocol-version"
	CodeResumption             Code = "resumption"
	CodeServerName             Code = "server-name"
	CodeHandshakeFailed        Code = "handshake-failed"
	CodeHandshakeTimeout       Code = "handshake-timeout"
	CodeUnreachable            Code = "unreachable"
	CodePeerAlert              Code = "peer-alert"
	CodeBusy                   Code = "busy"
	CodeStoreFailed            Code = "store-failed"
	CodeStoreDamaged           Code = "store-damaged"
	CodeMigrationIrreversible  Code = "migration-irreversible"
	CodeAuditBroken            Code = "audit-broken"
)

// The codes for keys and procedures.
const (
	CodeAlreadyExported   Code = "already-exported"
	CodeKeyUnknown        Code = "key-unknown"
	CodeKeyRetired        Code = "key-retired"
	CodeKeyExpired        Code = "key-expired"
	CodeKeyConflict       Code = "key-conflict"
	CodeMEFNotListed      Code = "mef-not-listed"
	CodeMAFNotListed      Code = "maf-not-listed"
	CodeMAFUnreachable    Code = "maf-unreachable"
	CodeMEFUnreachable    Code = "mef-unreachable"
	CodeNotOfMEF          Code = "enrolee-not-of-mef"
	CodeNotTarget         Code = "not-a-target"
	CodeFetchesExhausted  Code = "fetches-exhausted"
	CodeCloneSuspected    Code = "clone-suspected"
	CodeOriginMismatch    Code = "origin-mismatch"
	CodeRequestMalformed  Code = "request-malformed"
	CodeRequestNotAllowed Code = "request-not-allowed"
	CodePeerRefused       Code = "peer-refused"
	CodeRegistrationWrong Code = "registration-wrong"
	CodeCommandConflict   Code = "command-conflict"
)

// The codes for what an operator gives.
const (
	CodeUsage         Code = "usage"
	CodeConfiguration Code = "configuration"
)

// The codes for requests of operators, beside those above.
const (
	CodeTokenInvalid     Code = "token-invalid"
	CodeResourceUnknown  Code = "resource-unknown"
	CodeResourceConflict Code = "resource-conflict"
	CodeResourceChanged  Code = "resource-changed"
	CodeQuotaExceeded    Code = "quota-exceeded"
)

// A CodeMeaning tells an operator what a code stands for.
type CodeMeaning struct {
	Code   Code
	Rule   string // the rule that failed, with its clause
	Remedy string // what to do about it
}

// Temporary reports whether what was refused with c may succeed later as it is: the
// function is busy, or its store fails for now.
func (c Code) Temporary() bool { return c == CodeBusy || c == CodeStoreFailed }

// Meaning returns what c stands for; ok is false for a code that is not Muster's.
func (c Code) Meaning() (meaning CodeMeaning, ok bool) {
	for _, m := range Codes() {
		if m.Code == c {
			return m, true
		}
	}
	return CodeMeaning{}, false
}

// Codes returns every code with its meaning.
func Codes() []CodeMeaning {
	return []CodeMeaning{
		{CodeNoCertificate, "both sides authenticate with a certificate (TS-0003 8.3.2.2)", "configure the peer with its certificate and key"},
		{CodeChainTooLong, "a chain has at most 4 intermediates", "send the leaf and the intermediates only, or shorten the hierarchy"},
		{CodeCertificateTooLarge, "a certificate has at most 16 KiB and an RSA key at most 4096 bits", "issue a smaller certificate"},
		{CodeCertificateMalformed, "a certificate conforms to RFC 5280 (TS-0003 10.1.1.1)", "issue the certificate again; muster explain shows where it fails"},
		{CodeNameUnknown, "an instruction names the certificate (TS-0003 8.1.2.4)", "add an instruction with the certificate's name and trust anchor"},
		{CodeNameMismatch, "the certificate carries the configured name exactly (TS-0003 8.1.2.5)", "compare the configured name with the certificate's subjectAltName"},
		{CodeNameWildcard, "a certificate has no wildcard (TS-0003 10.1.1)", "issue a certificate with the full name"},
		{CodeNameOnlyInCN, "a name stands in subjectAltName, not in the common name (TS-0003 10.1.1)", "issue a certificate with a subjectAltName"},
		{CodeAnchorMismatch, "the chain ends at a trust anchor pinned with the name (TS-0003 8.1.2.5)", "check which root issued the certificate; add that root to the instruction if it is the right one"},
		{CodeNotYetValid, "the certificate's validity has begun (RFC 5280 6.1)", "check the clocks on both sides"},
		{CodeExpired, "the certificate has not expired (RFC 5280 6.1)", "renew the certificate, or check the clocks"},
		{CodeKeyUsage, "the keyUsage extension includes digitalSignature (TS-0003 10.1.1.1)", "issue the certificate with that key usage"},
		{CodeExtendedKeyUsage, "an extendedKeyUsage, if present, allows the role", "issue the certificate with clientAuth or serverAuth as needed"},
		{CodeCAAsLeaf, "a peer authenticates with an end-entity certificate", "use a leaf certificate issued by the authority"},
		{CodeKeyAlgorithm, "public keys are on P-256, uncompressed (TS-0003 10.1.1.1)", "issue P-256 keys, or set profile: rfc5280"},
		{CodeSignatureAlgorithm, "chains are signed with ECDSA P-256 and SHA-256 (TS-0003 10.1.1.3)", "issue such signatures, or set profile: rfc5280"},
		{CodeNameConstraints, "names lie within the authorities' name constraints (RFC 5280 4.2.1.10)", "issue from an authority that may certify this name"},
		{CodeCriticalExtension, "no critical extension is unknown (RFC 5280 4.2)", "issue the certificate without that extension, or make it non-critical"},
		{CodePathInvalid, "the chain is a valid path (RFC 5280 6.1)", "send or configure the missing intermediate; muster explain shows the path"},
		{CodeRevoked, "no certificate in the path is revoked (TS-0003 8.1.2.2)", "issue a new certificate if the device is sound"},
		{CodeStatusUnknown, "the status of each certificate in the path is known (TS-0003 8.1.2.2)", "provide a current CRL of the authority, or a responder that can be reached; the detail says what was tried"},
		{CodeEnroleeID, "the template of a group forms an Enrolee-ID of the certificate's name (TS-0001 7.2)", "write an instruction for this name alone"},
		{CodeBanned, "no verdict bans the Enrolee, its name or its certificate", "lift the verdict if it is wrong; it is meant for good"},
		{CodeSuspended, "no verdict suspends the Enrolee, its name or its certificate", "lift the verdict when its reason is gone"},
		{CodeNoExtendedMasterSecret, "the peer offers the Extended Master Secret (RFC 7627)", "update the peer's TLS library or switch the extension on"},
		{CodeProtocolVersion, "the version is TLS 1.2 or DTLS 1.2 (TS-0003 10.2.1)", "enable that version on the peer"},
		{CodeResumption, "a session that yields a key comes from a full handshake", "switch session resumption off on the peer"},
		{CodeServerName, "the ClientHello names this function in server_name (TS-0003 10.2)", "configure the peer with the function's FQDN"},
		{CodeHandshakeFailed, "the handshake ends in mutual authentication", "see the detail; muster explain checks a certificate offline"},
		{CodeHandshakeTimeout, "the handshake ends before its deadline", "check the network path and its MTU, and try again"},
		{CodeUnreachable, "the other side takes connections and keeps them", "check its address and that it runs, and try again"},
		{CodePeerAlert, "the peer accepts this side", "see the peer's log"},
		{CodeBusy, "the function has capacity for the request", "try again later, with back-off"},
		{CodeStoreFailed, "what is answered is durable first", "see the detail: the server of a database, or space, mount and health of a file's disk; the peer may try again"},
		{CodeStoreDamaged, "a store holds what was written to it", "restore the newest backup that muster store check finds sound"},
		{CodeMigrationIrreversible, "a store goes back one version of its schema, and only if that can hold all that is in it", "go on with the program whose schema the store has, or restore the backup made before the upgrade"},
		{CodeAuditBroken, "an audit log holds what was written to it, in its order and without a gap", "keep the log as evidence and find out who changed it; give audit.file another name to start again"},
		{CodeAlreadyExported, "a session yields one key for a label", "open a new session"},
		{CodeKeyUnknown, "the key identifier is known here or at its MEF", "enrol again"},
		{CodeKeyRetired, "a KeID is not used after its KmID", "use the KmID of the registration, or enrol again"},
		{CodeKeyExpired, "the key's lifetime has not ended (TS-0003 10.7)", "enrol again"},
		{CodeKeyConflict, "a KeID belongs to one session, certificate and Enrolee", "enrol again; if it recurs, investigate the device and its random numbers"},
		{CodeMEFNotListed, "the MEF in the KeID is on the MAF's list", "add the MEF to the MAF's configuration if it is trusted"},
		{CodeMAFNotListed, "the MAF in a key identifier is on the entity's list", "add the MAF to the entity's configuration if it is trusted"},
		{CodeMAFUnreachable, "the MAF answers in time", "check the MAF and the network; the device may try again"},
		{CodeMEFUnreachable, "the MEF answers in time", "check the MEF and the network; the device may try again"},
		{CodeNotOfMEF, "a MEF answers for the Enrolees that the MAF expects of it", "extend enrolees of the MEF in the MAF's configuration if the MEF is meant to; else ask its operator"},
		{CodeNotTarget, "a MAF is a target of the Enrolee for the usage (TS-0003 8.3.2.1)", "add the MAF to the instruction's targets if it shall serve the Enrolee"},
		{CodeFetchesExhausted, "a key is handed over within a short window and a small count", "enrol again"},
		{CodeCloneSuspected, "an Enrolee enrols a limited number of times within a key's lifetime", "find out whether the device was cloned; then raise the limit or ban it"},
		{CodeOriginMismatch, "the originator is the authenticated identity (TS-0003 8.8)", "send the identity of the session's credential"},
		{CodeRequestMalformed, "a request is well formed (TS-0004)", "correct the request; the detail names the attribute"},
		{CodeRequestNotAllowed, "the resource allows the operation to this originator", "use another operation or identity"},
		{CodePeerRefused, "the other side grants the request", "see its log for the code of its refusal"},
		{CodeRegistrationWrong, "a registration is for this Enrolee, by this MAF, and has time left (TS-0003 8.8.2.3)", "check the Enrolee-ID on both sides, and the clocks"},
		{CodeCommandConflict, "an identifier names one MEF client command of a client (TS-0003 8.3.9)", "queue the command under another identifier"},
		{CodeUsage, "a command line has known flags and complete arguments", "see the command's --help"},
		{CodeConfiguration, "a configuration is complete and consistent", "correct what the message names; muster config check FILE finds the rest"},
		{CodeTokenInvalid, "an operator's token was issued by this process, is valid, and its client still has the role", "have one issued with a certificate: muster admin token"},
		{CodeResourceUnknown, "the operators' interface has the resource, and it belongs to the operator's stakeholder", "list what there is; GET /v1/openapi.json describes the interface"},
		{CodeResourceConflict, "a resource that others made, or that stands in the configuration, is not overwritten", "show the resource, then replace or delete it, or change the configuration"},
		{CodeResourceChanged, "a resource is changed as it was seen (If-Match)", "show the resource again, and repeat the change"},
		{CodeQuotaExceeded, "a tenant's operators give no more instructions than its bound (max_instructions)", "delete some, write one for a group in their place, or have the bound raised in the configuration"},
	}
}
