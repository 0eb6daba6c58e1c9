package archive_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"regexp"
	"strings"
	"testing"

	"muster/archive"
)

// resealed returns an archive whose digest and counts are those of its lines, as a
// forger would write it.
func resealed(lines []string) []byte {
	counts := map[string]int{}
	table := regexp.MustCompile(`^{"table":"([^"]*)"`)
	for _, line := range lines {
		if m := table.FindStringSubmatch(line); m != nil {
			counts[m[1]]++
		}
	}
	text := strings.Join(lines, "")
	sum := sha256.Sum256([]byte(text))
	var all []string
	for _, t := range []string{"command", "credential", "data_key", "enrolment", "key_registration", "kpm", "registration"} {
		if counts[t] > 0 {
			all = append(all, fmt.Sprintf("%q:%d", t, counts[t]))
		}
	}
	return fmt.Appendf(nil, "%s{\"table\":\"end\",\"counts\":{%s},\"sha256\":%q}\n", text, strings.Join(all, ","), hex.EncodeToString(sum[:]))
}

func damages() map[string]func(lines []string) []byte {
	join := func(lines []string) []byte { return []byte(strings.Join(lines, "")) }
	return map[string]func(lines []string) []byte{
		"cut off after a line":   func(l []string) []byte { return join(l[:len(l)-1]) },
		"cut off within a line":  func(l []string) []byte { all := join(l); return all[:len(all)/2] },
		"without its last octet": func(l []string) []byte { all := join(l); return all[:len(all)-1] },
		"with another end":       func(l []string) []byte { return append(join(l), l[len(l)-1]...) },
		"without a record":       func(l []string) []byte { return join(append(l[:3:3], l[4:]...)) },
		"a record in another place": func(l []string) []byte {
			l[2], l[3] = l[3], l[2]
			return resealed(l[:len(l)-1])
		},
		"a record twice": func(l []string) []byte { return resealed(append(l[:3:3], l[2:len(l)-1]...)) },
		"a command twice": func(l []string) []byte {
			for i, line := range l {
				if strings.Contains(line, `"command"`) {
					return resealed(append(l[:i+1:i+1], l[i:len(l)-1]...))
				}
			}
			return nil
		},
		"a flipped character": func(l []string) []byte {
			l[2] = strings.Replace(l[2], `"state":`, `"stAte":`, 1)
			return join(l)
		},
		"a flipped digit": func(l []string) []byte {
			l[2] = strings.Replace(l[2], `"fetches":`, `"fetches":1`, 1)
			return join(l)
		},
		"an unknown table": func(l []string) []byte {
			l[2] = strings.Replace(l[2], `"enrolment"`, `"attachment"`, 1)
			return resealed(l[:len(l)-1])
		},
		"an unknown member": func(l []string) []byte {
			l[2] = strings.Replace(l[2], `"state":`, `"colour":1,"state":`, 1)
			return resealed(l[:len(l)-1])
		},
		"a member twice": func(l []string) []byte {
			l[2] = strings.Replace(l[2], `"fetches":0`, `"fetches":0,"fetches":0`, 1)
			return resealed(l[:len(l)-1])
		},
		"a member less": func(l []string) []byte {
			l[2] = strings.Replace(l[2], `,"fetches":0`, ``, 1)
			return resealed(l[:len(l)-1])
		},
		"a state that is none": func(l []string) []byte {
			l[2] = regexp.MustCompile(`"state":\d`).ReplaceAllString(l[2], `"state":9`)
			return resealed(l[:len(l)-1])
		},
		"a key prolonged": func(l []string) []byte {
			for i := range l {
				l[i] = strings.Replace(l[i], `"expires":1800086400`, `"expires":1900086400`, 1)
			}
			return resealed(l[:len(l)-1])
		},
		"keys swapped": func(l []string) []byte {
			sealed := regexp.MustCompile(`"sealed":"[^"]*"`)
			var with []int
			for i, line := range l {
				if sealed.MatchString(line) {
					with = append(with, i)
				}
			}
			a, b := with[0], with[1]
			one, two := sealed.FindString(l[a]), sealed.FindString(l[b])
			l[a], l[b] = strings.Replace(l[a], one, two, 1), strings.Replace(l[b], two, one, 1)
			return resealed(l[:len(l)-1])
		},
		"an Enrolee-ID that is none": func(l []string) []byte {
			l[2] = strings.Replace(l[2], "//sp.example.org/", "", 1)
			return resealed(l[:len(l)-1])
		},
		"without data keys": func(l []string) []byte { return resealed(append(l[:1:1], l[2:len(l)-1]...)) },
	}
}

// FuzzReader: whatever is read without an error is written again as it was.
func FuzzReader(f *testing.F) {
	from := onSQLite()
	source, _ := from.made(f)
	text := from.written(f, source)
	f.Add(text)
	lines := strings.SplitAfter(string(text), "\n")
	for what, damage := range damages() {
		if what != "cut off within a line" {
			f.Add(damage(strings.SplitAfter(string(text), "\n")[:len(lines)-1]))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		reader, err := archive.NewReader(bytes.NewReader(text))
		if err != nil {
			return
		}
		var failed error
		var all []archive.Record
		for r, err := range reader.Records() {
			if failed = err; err == nil {
				all = append(all, r)
			}
		}
		if failed != nil {
			return
		}
		var out bytes.Buffer
		if err := archive.Write(&out, reader.Header, sequence(all)); err != nil || !bytes.Equal(out.Bytes(), text) {
			t.Errorf("read\n%s\nwritten\n%s\n%v", text, out.Bytes(), err)
		}
	})
}

func sequence(all []archive.Record) iter.Seq2[archive.Record, error] {
	return func(yield func(archive.Record, error) bool) {
		for _, r := range all {
			if !yield(r, nil) {
				return
			}
		}
	}
}
