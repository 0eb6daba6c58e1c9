package cert

import (
	"fmt"
	"slices"
	"strings"

	"muster"
)

// A Level says what a Finding means for the handshake.
type Level int

// The levels of findings, the gravest first: a Finding without a level refuses.
const (
	// LevelError refuses the certificate.
	LevelError Level = iota
	// LevelWarning departs from the standard in a way that does not refuse.
	LevelWarning
	// LevelInfo is worth knowing.
	LevelInfo
)

// String returns "error", "warning" or "info".
func (l Level) String() string {
	switch l {
	case LevelInfo:
		return "info"
	case LevelWarning:
		return "warning"
	default:
		return "error"
	}
}

// NoIndex is the index of a Finding that is about none of the presented
// certificates: about the configuration, an anchor, a configured intermediate
// or the chain as a whole.
const NoIndex = -1

// A Finding is one observation about a chain.
type Finding struct {
	Code        muster.Code // whose Meaning has the rule and the remedy
	Level       Level
	Certificate int    // index in the presented chain, 0 for the leaf, or NoIndex
	Detail      string // what was found, in words; parts of a certificate are quoted
}

// String returns the finding as one line.
func (f Finding) String() string {
	subject := "chain"
	switch {
	case f.Certificate == 0:
		subject = "leaf"
	case f.Certificate > 0:
		subject = fmt.Sprintf("intermediate %d", f.Certificate)
	}
	return fmt.Sprintf("%s: %s: %s: %s", f.Level, f.Code, subject, f.Detail)
}

// Findings are in the order in which they were made. The first error is the one
// that a refusal carries.
type Findings []Finding

// Err returns nil if no finding is an error, else a *muster.Refusal with the
// code of the first error and the details of all errors.
func (f Findings) Err() error {
	var code muster.Code
	var details []string
	for _, finding := range f {
		if finding.Level != LevelError {
			continue
		}
		if code == "" {
			code = finding.Code
		}
		details = append(details, finding.Detail)
	}
	if details == nil {
		return nil
	}
	return muster.Refuse(code, "%s", strings.Join(details, "; "))
}

// failed reports whether a finding is an error.
func (f Findings) failed() bool {
	return slices.ContainsFunc(f, func(finding Finding) bool { return finding.Level == LevelError })
}

// demoted returns a copy of f in which errors are warnings.
func (f Findings) demoted() Findings {
	copied := slices.Clone(f)
	for i := range copied {
		copied[i].Level = max(copied[i].Level, LevelWarning)
	}
	return copied
}

// add appends a finding whose detail is formatted.
func (f *Findings) add(level Level, code muster.Code, index int, format string, args ...any) {
	*f = append(*f, Finding{code, level, index, fmt.Sprintf(format, args...)})
}

// addError appends an error; a Refusal keeps its code.
func (f *Findings) addError(fallback muster.Code, index int, err error) {
	code, detail := fallback, err.Error()
	if c := muster.CodeOf(err); c != "" {
		code, detail = c, strings.TrimPrefix(detail, string(c)+": ")
	}
	f.add(LevelError, code, index, "%s", detail)
}

// quote returns a part of a stranger's certificate as a detail shows it: in
// quotation marks, escaped, and not longer than a line.
func quote(s string) string {
	const most = 120
	if len(s) > most {
		return fmt.Sprintf("%q...", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
