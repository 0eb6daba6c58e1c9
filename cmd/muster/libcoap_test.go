package main

import (
	"encoding/hex"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"muster/mustertest"
)

// libcoaps compiles the client of oneM2M on libcoap, for each of the libraries
// below it.
func libcoaps(t *testing.T) map[string]string {
	t.Helper()
	source := filepath.Join("testdata", "libcoap", "onem2m_client.c")
	return map[string]string{
		"OpenSSL": mustertest.CompilePeer(t, source, "coap-3-openssl"),
		"GnuTLS":  mustertest.CompilePeer(t, source, "coap-3-gnutls"),
	}
}

// speak runs a foreign client and returns what it prints, a line for each answer.
func speak(t *testing.T, program string, args ...string) []string {
	t.Helper()
	command := exec.CommandContext(t.Context(), program, args...)
	var complaints strings.Builder
	command.Stderr = &complaints
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", command.Args, err, out, complaints.String())
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// wantLines compares answers with patterns.
func wantLines(t *testing.T, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d answers, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i, line := range got {
		if !regexp.MustCompile("^" + want[i]).MatchString(line) {
			t.Errorf("answer %d is %s\nwant %s", i+1, line, want[i])
		}
	}
}

// broughtKey is 32 octets in base64, as a client brings them.
const broughtKey = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="

// libcoap registers at the MEF with its certificate, reads, changes and ends its
// registration, and registers keys.
func TestLibcoapAtTheMEF(t *testing.T) {
	t.Parallel()
	for name, program := range libcoaps(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			chain, key, root := w.deviceFiles(0)
			w.mef.Intermediates = []string{chain} // over OpenSSL, libcoap sends its leaf alone
			w.startMEF()
			_, port := split(t, w.mefAddresses.DTLS)
			registration := fmt.Sprintf(`{"sec:mecr":{"adfq":%q,"fq":%q,"lbl":["libcoap"]}}`, labAdmin, labMEF)
			brought := fmt.Sprintf(`{"sec:skr":{"adfq":%q,"suid":23,"tgis":["//sp.example/b"],"kv":%q}}`, labAdmin, broughtKey)
			got := speak(t, program, port, labMEF, "cert", chain, key, root, w.deviceConfig(0, overDTLS).EnroleeID.String(),
				"GET", "-", "0", "",
				"POST", "-", "60004", registration,
				"GET", "@", "0", "",
				"PUT", "@", "0", `{"sec:mecr":{"lbl":["changed"]}}`,
				"POST", "-", "60006", brought,
				"GET", "-/0123456789ABCDEF0123456789ABCDEF", "0", "",
				"POST", "-", "60004", `{"sec:mecr":{}}`,
			)
			wantLines(t, got, []string{
				`2\.05 2000 r1 \{"sec:mefb":\{.*"fq":"mef\.lab\.example"`,
				`2\.01 2001 r2 \{"sec:mecr":\{.*"lbl":\["libcoap"\]`,
				`2\.05 2000 r3 \{"sec:mecr":\{.*"lbl":\["libcoap"\]`,
				`2\.04 2004 r4 \{"sec:mecr":\{.*"lbl":\["changed"\]`,
				`2\.01 2001 r5 \{"sec:skr":\{[^k]*"ri":"[0-9A-F]{32}"`,
				`4\.04 4004 r6`,
				`4\.00 4000 r7`,
			})
			if rows := w.count(w.mef.Store, "registration"); rows != 1 {
				t.Errorf("the MEF holds %d registrations", rows)
			}
		})
	}
}

// libcoap comes to the MAF for the first time under its KeID and registers, and
// again under the KmID that it was assigned: it reads its registration, registers
// a key, and ends its registration.
func TestLibcoapAtTheMAF(t *testing.T) {
	t.Parallel()
	for name, program := range libcoaps(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newRunningWorld(t, 1)
			config := w.deviceConfig(0, overTLS)
			credential, err := w.device(config).Enrol(t.Context())
			must(t, err)
			_, port := split(t, w.mafAddress)
			session := func(identity string, requests ...string) []string {
				return speak(t, program, append([]string{
					port, labMAF, "psk", identity, hex.EncodeToString(credential.Km.Reveal()), config.EnroleeID.String(),
				}, requests...)...)
			}
			first := session(credential.KeID.String(), "POST", "-", "60002", fmt.Sprintf(`{"sec:macr":{"adfq":%q,"fq":%q}}`, labAdmin, labMAF))
			wantLines(t, first, []string{`2\.01 2001 r1 \{"sec:macr":\{.*"aski":"[0-9A-F]{32}@maf\.lab\.example"`})
			kmID, id := within(t, first[0], `"aski":"([^"]+)"`), within(t, first[0], `"ri":"([^"]+)"`)
			wantLines(t, session(kmID,
				"GET", "-/"+id, "0", "",
				"POST", "-", "60006", fmt.Sprintf(`{"sec:skr":{"adfq":%q,"suid":33,"tgis":["//sp.example/b"],"kv":%q}}`, labAdmin, broughtKey),
				"GET", "@", "0", "",
				"DELETE", "@", "0", "",
				"GET", "@", "0", "",
				"DELETE", "-/"+id, "0", "",
			), []string{
				`2\.05 2000 r1 \{"sec:macr":\{.*"aski":"` + kmID,
				`2\.01 2001 r2 \{"sec:skr":\{`,
				`2\.05 2000 r3 \{"sec:skr":\{`,
				`2\.02 2002 r4`,
				`4\.04 4004 r5`,
				`2\.02 2002 r6`,
			})
			w.ledger.awaitAttachment(t, kmID)
		})
	}
}

// within returns the first submatch of a pattern.
func within(t *testing.T, text, pattern string) string {
	t.Helper()
	match := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if match == nil {
		t.Fatalf("%s does not match %s", text, pattern)
	}
	return match[1]
}
