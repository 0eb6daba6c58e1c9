package tlspsk

import (
	"fmt"

	"muster"
)

// An alert is a description of RFC 5246 section 7.2.
type alert uint8

const (
	alertCloseNotify           alert = 0
	alertUnexpectedMessage     alert = 10
	alertBadRecordMAC          alert = 20
	alertRecordOverflow        alert = 22
	alertHandshakeFailure      alert = 40
	alertIllegalParameter      alert = 47
	alertDecodeError           alert = 50
	alertDecryptError          alert = 51
	alertProtocolVersion       alert = 70
	alertInternalError         alert = 80
	alertInappropriateFallback alert = 86
	alertNoRenegotiation       alert = 100
	alertUnsupportedExtension  alert = 110
	alertUnrecognizedName      alert = 112
	alertUnknownPSKIdentity    alert = 115 // received only, never sent: RFC 4279 section 2
)

const (
	levelWarning = 1
	levelFatal   = 2
)

// String returns the name of RFC 5246 and its companions, or the number.
func (a alert) String() string {
	names := map[alert]string{
		alertCloseNotify:           "close_notify",
		alertUnexpectedMessage:     "unexpected_message",
		alertBadRecordMAC:          "bad_record_mac",
		alertRecordOverflow:        "record_overflow",
		alertHandshakeFailure:      "handshake_failure",
		alertIllegalParameter:      "illegal_parameter",
		alertDecodeError:           "decode_error",
		alertDecryptError:          "decrypt_error",
		alertProtocolVersion:       "protocol_version",
		alertInternalError:         "internal_error",
		alertInappropriateFallback: "inappropriate_fallback",
		alertNoRenegotiation:       "no_renegotiation",
		alertUnsupportedExtension:  "unsupported_extension",
		alertUnrecognizedName:      "unrecognized_name",
		alertUnknownPSKIdentity:    "unknown_psk_identity",
	}
	if name, ok := names[a]; ok {
		return name
	}
	return fmt.Sprintf("alert %d", uint8(a))
}

// level is fatal but for the two alerts that RFC 5246 section 7.2 makes warnings.
func (a alert) level() uint8 {
	if a == alertCloseNotify || a == alertNoRenegotiation {
		return levelWarning
	}
	return levelFatal
}

// A fault is an error that ends the connection and that the peer learns about by
// an alert. The peer never learns err.
type fault struct {
	alert alert
	err   error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

func refuse(a alert, code muster.Code, format string, args ...any) error {
	return &fault{a, muster.Refuse(code, format, args...)}
}

// failed is a refusal for the many reasons that need no code of their own.
func failed(a alert, format string, args ...any) error {
	return refuse(a, muster.CodeHandshakeFailed, format, args...)
}
