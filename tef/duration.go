package tef

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxRetry bounds a retryDuration, so that no sum of its parts overflows.
const maxRetry = 10 * 365 * 24 * time.Hour

var errDuration = errors.New("not an xs:duration of at most ten years")

// formatDuration writes whole seconds as an xs:duration.
func formatDuration(d time.Duration) string { return fmt.Sprintf("PT%dS", d/time.Second) }

// parseDuration reads an xs:duration that is not negative. A year counts 365
// days and a month 30: the text uses durations for nothing but timers.
func parseDuration(s string) (time.Duration, error) {
	date, ok := strings.CutPrefix(s, "P")
	date, clock, timed := strings.Cut(date, "T")
	if !ok || date == "" && clock == "" || timed && clock == "" {
		return 0, errDuration
	}
	const day = 24 * time.Hour
	d, err := sum(date, []part{{'Y', 365 * day}, {'M', 30 * day}, {'D', day}})
	if err != nil {
		return 0, err
	}
	t, err := sum(clock, []part{{'H', time.Hour}, {'M', time.Minute}, {'S', time.Second}})
	if err != nil || d+t > maxRetry {
		return 0, errDuration
	}
	return d + t, nil
}

// A part of a duration is a number before a letter.
type part struct {
	letter byte
	unit   time.Duration
}

// sum reads the parts that are there, in their order. Seconds may have a fraction,
// which is dropped.
func sum(s string, parts []part) (total time.Duration, err error) {
	for _, p := range parts {
		digits, rest, found := strings.Cut(s, string(p.letter))
		if !found {
			continue
		}
		s = rest
		if whole, fraction, split := strings.Cut(digits, "."); split {
			if p.letter != 'S' || fraction == "" || strings.Trim(fraction, "0123456789") != "" {
				return 0, errDuration
			}
			digits = whole
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || time.Duration(n) > maxRetry/p.unit {
			return 0, errDuration
		}
		total += time.Duration(n) * p.unit
	}
	if s != "" {
		return 0, errDuration
	}
	return total, nil
}
