//go:build pkcs11

package main

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// softToken makes a token of SoftHSM and returns the URI of a key in it.
func softToken(t *testing.T) (uri func(object string) string) {
	t.Helper()
	var module string
	for _, path := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/libsofthsm2.so"} {
		if _, err := os.Stat(path); err == nil {
			module = path
		}
	}
	util, err := exec.LookPath("softhsm2-util")
	if err != nil || module == "" {
		if os.Getenv("MUSTER_REQUIRE_PEERS") != "" {
			t.Fatal("SoftHSM is missing: ", err)
		}
		t.Skip("SoftHSM is missing: ", err)
	}
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "tokens"), 0o700))
	config := filepath.Join(dir, "softhsm2.conf")
	must(t, os.WriteFile(config, []byte("directories.tokendir = "+filepath.Join(dir, "tokens")+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600))
	t.Setenv("SOFTHSM2_CONF", config)
	pin := filepath.Join(dir, "pin")
	must(t, os.WriteFile(pin, []byte("123456\n"), 0o600))
	out, err := exec.CommandContext(t.Context(), util, "--init-token", "--free", "--label", "Muster Test", "--pin", "123456", "--so-pin", "654321").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return func(object string) string {
		return fmt.Sprintf("pkcs11:token=Muster%%20Test;object=%s?module-path=%s&pin-source=file:%s", object, module, pin)
	}
}

// An authority whose key is in a token issues, revokes and answers like any
// other, and no key is in its folder.
func TestAuthorityInAToken(t *testing.T) {
	uri := softToken(t)
	dir := t.TempDir()
	root, factory := filepath.Join(dir, "root"), filepath.Join(dir, "factory")
	pki(t, "root", root, "--key", uri("root"))
	if _, err := os.Stat(filepath.Join(root, folderKey)); err == nil {
		t.Error("the folder has a key")
	}
	pki(t, "intermediate", factory, "--issuer", root, "--key", uri("factory"))
	pki(t, "leaf", "--issuer", factory, "--flavour", "device", "--name", "0.2.481.1/1.2.3", "--out", filepath.Join(dir, "device"))
	pki(t, "lint", "--flavour", "device", "--anchor", filepath.Join(root, folderCertificate), filepath.Join(dir, "device.pem"))
	pki(t, "revoke", factory, "--cert", filepath.Join(dir, "device.pem"))
	octets, err := os.ReadFile(filepath.Join(factory, folderCRL))
	must(t, err)
	der, err := decodePEM(octets, "X509 CRL")
	must(t, err)
	list, err := x509.ParseRevocationList(der)
	must(t, err)
	certificates, err := readCertificates([]string{filepath.Join(factory, folderCertificate)})
	must(t, err)
	if err := list.CheckSignatureFrom(certificates[0]); err != nil || len(list.RevokedCertificateEntries) != 1 {
		t.Errorf("the list %+v: %v", list, err)
	}
	// A request for a key in the token.
	pki(t, "csr", "--flavour", "ae-id", "--name", "//sp.example/C1", "--key", uri("factory"), "--out", filepath.Join(dir, "request"))
	pki(t, "sign", "--issuer", root, "--csr", filepath.Join(dir, "request.csr"), "--flavour", "ae-id", "--name", "//sp.example/C1", "--out", filepath.Join(dir, "ae.pem"))

	for what, args := range map[string][]string{
		"a key that exists":   {"root", filepath.Join(dir, "again"), "--key", uri("root")},
		"a key that does not": {"csr", "--flavour", "ae-id", "--name", "//sp.example/C1", "--key", uri("none"), "--out", filepath.Join(dir, "none")},
	} {
		if code, _, stderr := command(t, append([]string{"pki"}, args...)...); code != exitUsage {
			t.Errorf("%s: exit code %d: %s", what, code, stderr)
		}
	}
}

// A root key that a token encrypts.
func TestRootKeyInAToken(t *testing.T) {
	uri := softToken(t)
	folder := t.TempDir()
	config := keptStore(t, folder, fmt.Sprintf("token: %q", uri("root-key")))
	sound, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, bytes.Replace(sound, []byte("object=root-key"), []byte("object=none"), 1), 0o600))
	for range 2 { // the first must not make the key either
		if code, _, stderr := command(t, "store", "rotate-root", "--config", config); code != exitUsage || !strings.Contains(stderr, "0 keys") {
			t.Errorf("a rotation without the key: exit code %d: %s", code, stderr)
		}
		if left, _ := filepath.Glob(filepath.Join(folder, "*"+nextRootSuffix)); left != nil {
			t.Errorf("a rotation without the key leaves %v", left)
		}
	}
	must(t, os.WriteFile(config, sound, 0o600))
	file := filepath.Join(folder, "root-key")
	kept, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, append(kept[:len(kept)-8], "AAAAAAA\n"...), 0o600))
	if code, _, stderr := command(t, "store", "check", "--config", config); code == exitOK {
		t.Errorf("an altered file opens: %s", stderr)
	}
}
