package revocation_test

import (
	"bytes"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"muster/cert"
	"muster/mustertest"
	"muster/revocation"
)

// openssl returns the path of the program.
func openssl(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err == nil {
		return path
	}
	if os.Getenv("MUSTER_REQUIRE_PEERS") != "" {
		t.Fatal(err)
	}
	t.Skip("openssl is not installed")
	return ""
}

// run runs the program in a folder.
func run(t *testing.T, folder, program string, args ...string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), program, args...)
	command.Dir = folder
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, output)
	}
}

// An office is a certification authority that openssl ca runs.
type office struct {
	*mustertest.PKI
	folder, program string
}

const officeConfig = `[ca]
default_ca = office
[office]
database = index.txt
crlnumber = crlnumber
default_md = sha256
default_crl_days = 1
unique_subject = no
crl_extensions = crl
[crl]
authorityKeyIdentifier = keyid
`

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{mustertest.NewPKI(t), t.TempDir(), openssl(t)}
	issuer := mustertest.Identity{Chain: []*x509.Certificate{o.Intermediate.Certificate}, Key: o.Intermediate.Key}
	chain, key := issuer.WriteFiles(t)
	for name, content := range map[string]string{"office.cnf": officeConfig, "index.txt": "", "crlnumber": "1000\n", "chain.pem": read(t, chain), "key.pem": read(t, key)} {
		if err := os.WriteFile(filepath.Join(o.folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func (o *office) ca(t *testing.T, args ...string) {
	t.Helper()
	run(t, o.folder, o.program, append([]string{"ca", "-config", "office.cnf", "-cert", "chain.pem", "-keyfile", "key.pem"}, args...)...)
}

// register enters a certificate into the office's books, valid or revoked.
func (o *office) register(t *testing.T, identity *mustertest.Identity, revoked bool) {
	t.Helper()
	chain, _ := identity.LeafOnly().WriteFiles(t)
	o.ca(t, "-valid", chain)
	if revoked {
		o.ca(t, "-revoke", chain, "-crl_reason", "keyCompromise")
	}
}

func TestOpenSSLList(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	sound, stolen := o.Enrolee(t, mustertest.DeviceName(t, 1)), o.Enrolee(t, mustertest.DeviceName(t, 2))
	o.register(t, sound, false)
	o.register(t, stolen, true)
	o.ca(t, "-gencrl", "-out", "list.pem")
	checker := newChecker(t, revocation.Config{Files: []string{filepath.Join(o.folder, "list.pem")}})
	expect(t, checker, pathOf(o.PKI, sound), time.Now(), "good", "number 4096")
	expect(t, checker, pathOf(o.PKI, stolen), time.Now(), "revoked", "keyCompromise")

	run(t, o.folder, o.program, "crl", "-in", "list.pem", "-outform", "DER", "-out", "list.der")
	shelf := newShelf(t, []byte(read(t, filepath.Join(o.folder, "list.der"))))
	named := o.Enrolee(t, mustertest.DeviceName(t, 3), naming([]string{shelf.URL}, nil))
	expect(t, newChecker(t, following()), pathOf(o.PKI, named), time.Now(), "good", "number 4096")
}

// TestOpenSSLResponder asks openssl ocsp, which signs with a delegated
// certificate and repeats nonces.
func TestOpenSSLResponder(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	address := freePort(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	at := naming(nil, []string{"http://" + address + "/"})
	sound, stolen := o.Enrolee(t, mustertest.DeviceName(t, 1), at), o.Enrolee(t, mustertest.DeviceName(t, 2), at)
	stranger := o.Enrolee(t, mustertest.DeviceName(t, 3), at)
	o.register(t, sound, false)
	o.register(t, stolen, true)
	responder := delegate(t, o.PKI, o.Intermediate)
	signer := mustertest.Identity{Chain: []*x509.Certificate{responder.Certificate}, Key: responder.Key}
	signerChain, signerKey := signer.WriteFiles(t)
	command := exec.CommandContext(t.Context(), o.program, "ocsp", "-index", "index.txt", "-CA", "chain.pem",
		"-rsigner", signerChain, "-rkey", signerKey, "-port", port, "-nmin", "10")
	command.Dir = o.folder
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Wait() })
	t.Cleanup(func() { _ = command.Process.Kill() })
	awaitResponder(t, "http://"+address+"/", sound.Leaf(), o.Intermediate.Certificate)
	config := following()
	config.Nonce = revocation.NonceRequired
	checker := newChecker(t, config)
	expect(t, checker, pathOf(o.PKI, sound), time.Now(), "good", address)
	expect(t, checker, pathOf(o.PKI, stolen), time.Now(), "revoked", "keyCompromise")
	expect(t, checker, pathOf(o.PKI, stranger), time.Now(), "unknown", "does not know the certificate")

	trust := o.Trust(mustertest.DeviceName(t, 1), cert.UsageClient)
	trust.Status = checker.Status(t.Context(), revocation.Question{Scope: revocation.ScopeLeaf, Now: time.Now()})
	if _, findings := cert.Verify(sound.Chain, trust, time.Now()); findings.Err() != nil {
		t.Error(findings)
	}
}

// freePort returns an address on which nothing listens.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// awaitResponder asks until somebody answers. The program takes one request
// after the other and ends at one that is not in earnest.
func awaitResponder(t *testing.T, url string, certificate, issuer *x509.Certificate) {
	t.Helper()
	request, err := ocsp.CreateRequest(certificate, issuer, nil)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		response, err := http.Post(url, "application/ocsp-request", bytes.NewReader(request))
		if err == nil {
			_ = response.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
