package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"muster/mustertest"
)

// A curler is curl with an identity of the laboratory, towards the MEF.
type curler struct {
	t       *testing.T
	base    []string
	version string // of HTTP that has to be spoken
}

func (w *world) curl(t *testing.T, identity identityConfig, from, version string, options ...string) *curler {
	t.Helper()
	mustertest.RequirePeer(t, "curl")
	_, port := split(t, w.mefAddresses.TLS)
	_, _, root := w.deviceFiles(0)
	return &curler{t, append(options, "--silent", "--show-error", "--max-time", "30", "--tls-max", "1.2", "--cacert", root,
		"--cert", identity.Certificate, "--key", identity.Key, "--connect-to", fmt.Sprintf("%s:443:127.0.0.1:%s", labMEF, port),
		"--header", "X-M2M-Origin: "+from, "--header", "X-M2M-RI: r1", "--header", "X-M2M-RVI: 3",
		"--write-out", "\n%{http_code} %header{x-m2m-rsc} %{http_version} %header{content-location}",
	), version}
}

// ask sends a request and returns the body and the Content-Location. want are the
// statuses of HTTP and of oneM2M.
func (c *curler) ask(want, method, path string, body ...string) (content, location string) {
	c.t.Helper()
	args := append(c.base, "--request", method, "https://"+labMEF+path)
	for _, b := range body {
		args = append(args, "--data", b)
	}
	if len(body) > 0 {
		media := "Content-Type: application/vnd.onem2m-res+json"
		if method == "POST" {
			media += ";ty=60004"
		}
		args = append(args, "--header", media)
	}
	lines := speak(c.t, "curl", args...)
	last := strings.Split(lines[len(lines)-1]+" ", " ")
	if got := last[0] + " " + last[1]; got != want || last[2] != c.version {
		c.t.Errorf("%s %s: %s over HTTP/%s, want %s over %s\n%s", method, path, got, last[2], want, c.version, lines[0])
	}
	return lines[0], last[3]
}

// curl registers at the MEF by the version of HTTP that ALPN leads to.
func TestCurlAtTheMEF(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		options []string
		version string
	}{
		"HTTP/2":                     {[]string{"--http2"}, "2"},
		"HTTP/1.1":                   {[]string{"--http1.1"}, "1.1"},
		"no ALPN":                    {[]string{"--no-alpn"}, "1.1"},
		"HTTP/2 asked, but with CBC": {[]string{"--http2", "--ciphers", "ECDHE-ECDSA-AES128-SHA256"}, "1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			w.startMEF()
			config := w.deviceConfig(0, overTLS)
			curl := w.curl(t, config.Identity, config.EnroleeID.String(), tc.version, tc.options...)
			curl.ask("200 2000", "GET", "/-")
			made, at := curl.ask("201 2001", "POST", "/-", fmt.Sprintf(`{"sec:mecr":{"adfq":%q,"fq":%q,"lbl":["curl"]}}`, labAdmin, labMEF))
			if !strings.HasPrefix(at, "/-/") || !strings.Contains(made, `"lbl":["curl"]`) {
				t.Fatalf("%q %s", at, made)
			}
			if got, _ := curl.ask("200 2000", "GET", at); got != made {
				t.Errorf("%s\nwas made as %s", got, made)
			}
			curl.ask("200 2004", "PUT", at, `{"sec:mecr":{"lbl":["changed"]}}`)
			curl.ask("400 4000", "PUT", at, `{"sec:mecr":{"cid":"x"}}`)
			curl.ask("200 2002", "DELETE", at)
			curl.ask("404 4004", "GET", at)
		})
	}
}

// curl fetches a key as the MAF, and as a device does not get it.
func TestCurlFetchesACredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.startMEF()
	config := w.deviceConfig(0, overTLS)
	credential, err := w.device(config).Enrol(t.Context())
	must(t, err)
	path := "/fetchCredentials/" + credential.KeID.String() + "/21"
	got, _ := w.curl(t, w.maf.Identity, labMAF, "2", "--http2").ask("200 2000", "GET", path)
	var answer struct{ Credential, EnroleeID string }
	must(t, json.Unmarshal([]byte(got), &answer))
	if answer.Credential != base64.StdEncoding.EncodeToString(credential.Km.Reveal()) || answer.EnroleeID != config.EnroleeID.String() {
		t.Errorf("%s is not the credential of %s", answer.EnroleeID, credential.KeID)
	}
	w.curl(t, config.Identity, config.EnroleeID.String(), "2", "--http2").ask("404 4004", "GET", path)
}
