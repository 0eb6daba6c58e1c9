package revocation

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"time"
)

// A status is what is known about a certificate.
type status int

const (
	unknown status = iota
	good
	revoked
)

// A verdict is a status and its reason. Of an unknown status, the reasons are
// what was tried.
type verdict struct {
	status  status
	reasons []string
	stale   bool // good by a list that is past its time and within the grace
}

func (v *verdict) because(format string, args ...any) {
	v.reasons = append(v.reasons, fmt.Sprintf(format, args...))
}

// A window says which times are current.
type window struct {
	now         time.Time
	skew, grace time.Duration
}

// begun reports whether an assertion has been made already.
func (w window) begun(thisUpdate time.Time) bool { return !thisUpdate.After(w.now.Add(w.skew)) }

// ended reports whether an assertion is past its time.
func (w window) ended(nextUpdate time.Time) bool { return w.now.After(nextUpdate.Add(w.skew)) }

// judgeLists says what lists tell about c. Whatever any of them, signed by
// issuer, lists as revoked is revoked, even if the list is old; to be good, a
// certificate needs a complete list that is current by itself or with a delta.
func judgeLists(lists []*list, c, issuer *x509.Certificate, w window) verdict {
	var v verdict
	var complete *list
	var deltas []*list
	for _, l := range lists {
		if !bytes.Equal(l.issuer, issuer.RawSubject) {
			continue
		}
		switch err := l.signedBy(issuer); {
		case err != nil:
			v.because("%s: %v", l.describe(), err)
		case !l.scope.covers(c):
			v.because("%s is not about such a certificate", l.describe())
		case !w.begun(l.thisUpdate):
			v.because("%s is from the future: %s", l.describe(), stamp(l.thisUpdate))
		case l.delta():
			deltas = append(deltas, l)
		case complete == nil || l.thisUpdate.After(complete.thisUpdate):
			complete = l
		}
	}
	delta := newestDelta(deltas, complete)
	if e, by := revocationOf(serialKey(c.SerialNumber), complete, delta, deltas); by != nil {
		return verdict{status: revoked, reasons: []string{fmt.Sprintf("%s has it, revoked at %s%s",
			by.describe(), stamp(time.Unix(e.at, 0)), reasonText(int(e.reason)))}}
	}
	if complete == nil {
		return v
	}
	end := complete.nextUpdate
	if delta != nil && delta.nextUpdate.After(end) {
		end = delta.nextUpdate
	}
	switch {
	case !w.ended(end):
		return verdict{status: good, reasons: []string{fmt.Sprintf("%s does not have it and is current until %s", complete.describe(), stamp(end))}}
	case !w.ended(end.Add(w.grace)):
		return verdict{status: good, stale: true, reasons: []string{fmt.Sprintf("%s does not have it, but should have been replaced by %s", complete.describe(), stamp(end))}}
	default:
		v.because("%s should have been replaced by %s", complete.describe(), stamp(end))
		return v
	}
}

// newestDelta returns the newest of the deltas that turns complete into a later
// list (RFC 5280 5.2.4), and nil without one.
func newestDelta(deltas []*list, complete *list) *list {
	var newest *list
	for _, d := range deltas {
		if complete == nil || complete.number == nil || !bytes.Equal(d.scope.raw, complete.scope.raw) ||
			d.base.Cmp(complete.number) > 0 || d.number.Cmp(complete.number) <= 0 {
			continue
		}
		if newest == nil || d.number.Cmp(newest.number) > 0 {
			newest = d
		}
	}
	return newest
}

// revocationOf returns the entry that revokes a serial number and its list, nil
// without one. The delta that applies decides over its complete list; it can take
// back a hold and nothing else. A delta that does not apply still reports what
// was revoked since some time, unless complete is the newer one.
func revocationOf(serial string, complete, delta *list, deltas []*list) (entry, *list) {
	var found entry
	var by *list
	if complete != nil {
		if e, ok := complete.entries[serial]; ok && e.reason != reasonRemove {
			found, by = e, complete
		}
	}
	for _, d := range deltas {
		if d == delta || complete != nil && !d.thisUpdate.After(complete.thisUpdate) {
			continue
		}
		if e, ok := d.entries[serial]; ok && e.reason != reasonRemove && (delta == nil || d.thisUpdate.After(delta.thisUpdate)) {
			found, by = e, d
		}
	}
	if delta == nil {
		return found, by
	}
	switch e, ok := delta.entries[serial]; {
	case ok && e.reason != reasonRemove:
		return e, delta
	case ok && by == complete && found.reason == reasonHold:
		return entry{}, nil
	default:
		return found, by
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// reasonText names a CRLReason (RFC 5280 5.3.1).
func reasonText(code int) string {
	names := [...]string{1: "keyCompromise", 2: "cACompromise", 3: "affiliationChanged", 4: "superseded",
		5: "cessationOfOperation", 6: "certificateHold", 9: "privilegeWithdrawn", 10: "aACompromise"}
	if code <= 0 || code >= len(names) || names[code] == "" {
		return ""
	}
	return ", " + names[code]
}
