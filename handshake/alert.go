package handshake

import (
	"crypto/tls"

	"muster"
)

// The alert descriptions that this project chooses (RFC 5246 7.2, RFC 6066 9).
const (
	AlertHandshakeFailure       tls.AlertError = 40
	AlertBadCertificate         tls.AlertError = 42
	AlertUnsupportedCertificate tls.AlertError = 43
	AlertCertificateRevoked     tls.AlertError = 44
	AlertCertificateExpired     tls.AlertError = 45
	AlertCertificateUnknown     tls.AlertError = 46
	AlertUnknownCA              tls.AlertError = 48
	AlertAccessDenied           tls.AlertError = 49
	AlertProtocolVersion        tls.AlertError = 70
	AlertInternalError          tls.AlertError = 80
	AlertUnrecognizedName       tls.AlertError = 112
)

// AlertFor returns the alert that tells a peer why its handshake was refused. It
// is all that the peer learns: what has no Refusal, or one that is no finding
// about the peer, is an internal error.
func AlertFor(code muster.Code) tls.AlertError {
	switch code {
	case muster.CodeAnchorMismatch:
		return AlertUnknownCA
	case muster.CodeExpired, muster.CodeNotYetValid:
		return AlertCertificateExpired
	case muster.CodeRevoked:
		return AlertCertificateRevoked
	case muster.CodeKeyUsage, muster.CodeExtendedKeyUsage, muster.CodeCAAsLeaf,
		muster.CodeKeyAlgorithm, muster.CodeSignatureAlgorithm, muster.CodeCriticalExtension:
		return AlertUnsupportedCertificate
	case muster.CodeNameUnknown, muster.CodeStatusUnknown:
		return AlertCertificateUnknown
	case muster.CodeCloneSuspected, muster.CodeNotTarget, muster.CodeRequestNotAllowed,
		muster.CodeEnroleeID, muster.CodeBanned, muster.CodeSuspended:
		return AlertAccessDenied
	case muster.CodeChainTooLong, muster.CodeCertificateTooLarge, muster.CodeCertificateMalformed,
		muster.CodeNameMismatch, muster.CodeNameWildcard, muster.CodeNameOnlyInCN,
		muster.CodeNameConstraints, muster.CodePathInvalid:
		return AlertBadCertificate
	case muster.CodeNoCertificate, muster.CodeNoExtendedMasterSecret, muster.CodeResumption, muster.CodeHandshakeFailed:
		return AlertHandshakeFailure
	case muster.CodeProtocolVersion:
		return AlertProtocolVersion
	case muster.CodeServerName:
		return AlertUnrecognizedName
	default:
		return AlertInternalError
	}
}
