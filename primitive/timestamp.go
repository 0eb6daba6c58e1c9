package primitive

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const timestampLayout = "20060102T150405"

// ParseTimestamp reads an m2m:timestamp: YYYYMMDDThhmmss in UTC, optionally with a
// comma and one to six digits of a second (TS-0004 6.3.3).
func ParseTimestamp(s string) (time.Time, error) {
	whole, fraction, hasFraction := strings.Cut(s, ",")
	if len(whole) != len(timestampLayout) || hasFraction && (len(fraction) < 1 || len(fraction) > 6) || !digits(fraction) {
		return time.Time{}, fmt.Errorf("%.40q is not a timestamp YYYYMMDDThhmmss with at most six digits after a comma", s)
	}
	t, err := time.Parse(timestampLayout, whole)
	if err != nil || t.Year() < 1 {
		return time.Time{}, fmt.Errorf("%q is not a date and time", s)
	}
	if hasFraction {
		micros, err := strconv.Atoi((fraction + "00000")[:6])
		if err != nil {
			return time.Time{}, err
		}
		t = t.Add(time.Duration(micros) * time.Microsecond)
	}
	return t, nil
}

// FormatTimestamp writes t in UTC, with a fraction to the microsecond only if there
// is one. Years outside 1 to 9999 have no form.
func FormatTimestamp(t time.Time) string {
	t = t.UTC()
	text := t.Format(timestampLayout)
	if micros := t.Nanosecond() / 1000; micros != 0 {
		text += "," + strings.TrimRight(fmt.Sprintf("%06d", micros), "0")
	}
	return text
}

// A Moment is an m2m:absRelTimestamp (TS-0004 6.3.3): a time, or a distance from
// the time at which the primitive arrives. The zero Moment is absent.
type Moment struct {
	Time     time.Time
	Relative time.Duration // whole milliseconds, set only if Time is zero
}

// maxRelative bounds a relative time, so that no addition overflows.
const maxRelative = 100 * 365 * 24 * time.Hour

// ParseMoment reads a timestamp or a number of milliseconds.
func ParseMoment(s string) (Moment, error) {
	if len(s) < len(timestampLayout) && s != "" && digits(s) {
		ms, err := strconv.ParseInt(s, 10, 64)
		if err != nil || ms < 1 || ms > maxRelative.Milliseconds() {
			return Moment{}, fmt.Errorf("%q is not a distance of 1 millisecond to 100 years", s)
		}
		return Moment{Relative: time.Duration(ms) * time.Millisecond}, nil
	}
	t, err := ParseTimestamp(s)
	return Moment{Time: t}, err
}

// IsZero reports whether m is absent.
func (m Moment) IsZero() bool { return m.Time.IsZero() && m.Relative == 0 }

// Before reports whether m is a time before now. A distance never is.
func (m Moment) Before(now time.Time) bool { return !m.Time.IsZero() && m.Time.Before(now) }

// String returns the wire form, and "" for the zero Moment.
func (m Moment) String() string {
	switch {
	case !m.Time.IsZero():
		return FormatTimestamp(m.Time)
	case m.Relative != 0:
		return strconv.FormatInt(m.Relative.Milliseconds(), 10)
	}
	return ""
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }
