package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"muster"
	"muster/cert"
	"muster/revocation"
)

// pki runs a command of muster pki that has to succeed.
func pki(t testing.TB, args ...string) {
	t.Helper()
	if code, _, stderr := command(t, append([]string{"pki"}, args...)...); code != 0 {
		t.Fatalf("muster pki %v: exit code %d: %s", args, code, stderr)
	}
}

// newFolders makes a root and a factory beneath it, with one device.
func newFolders(t testing.TB) (dir string, device, factory *x509.Certificate) {
	t.Helper()
	dir = t.TempDir()
	pki(t, "root", filepath.Join(dir, "root"))
	pki(t, "intermediate", filepath.Join(dir, "factory"), "--issuer", filepath.Join(dir, "root"))
	pki(t, "leaf", "--issuer", filepath.Join(dir, "factory"), "--flavour", "device", "--name", "0.2.481.1/1.2.3", "--out", filepath.Join(dir, "device"))
	chain, err := readCertificates([]string{filepath.Join(dir, "device.pem")})
	must(t, err)
	if len(chain) != 2 {
		t.Fatalf("the leaf comes with %d certificates", len(chain)-1)
	}
	return dir, chain[0], chain[1]
}

func TestCRLs(t *testing.T) {
	dir, device, factory := newFolders(t)
	read := func() *x509.RevocationList {
		t.Helper()
		octets, err := os.ReadFile(filepath.Join(dir, "factory", folderCRL))
		must(t, err)
		der, err := decodePEM(octets, "X509 CRL")
		must(t, err)
		list, err := x509.ParseRevocationList(der)
		must(t, err)
		must(t, list.CheckSignatureFrom(factory))
		return list
	}
	pki(t, "crl", filepath.Join(dir, "factory"), "--hours", "2")
	if list := read(); len(list.RevokedCertificateEntries) != 0 || list.Number.Int64() != 1 || list.NextUpdate.Sub(list.ThisUpdate) != 2*time.Hour {
		t.Errorf("the first list is %+v", list)
	}
	pki(t, "revoke", filepath.Join(dir, "factory"), "--serial", strings.ToUpper(serialText(device.SerialNumber)), "--reason", "keyCompromise")
	first := read()
	pki(t, "revoke", filepath.Join(dir, "factory"), "--cert", filepath.Join(dir, "device.pem"))
	list := read()
	if len(list.RevokedCertificateEntries) != 1 || list.Number.Int64() != 3 {
		t.Fatalf("the third list is %+v", list)
	}
	entry := list.RevokedCertificateEntries[0]
	if entry.SerialNumber.Cmp(device.SerialNumber) != 0 || entry.ReasonCode != 1 || !entry.RevocationTime.Equal(first.RevokedCertificateEntries[0].RevocationTime) {
		t.Errorf("the entry is %+v", entry)
	}
}

func decodePEM(octets []byte, kind string) ([]byte, error) {
	block, _ := pem.Decode(octets)
	if block == nil || block.Type != kind {
		return nil, configErrorf("no %s", kind)
	}
	return block.Bytes, nil
}

// Commands at the same time lose no certificate of the index.
func TestConcurrentIssuing(t *testing.T) {
	dir, _, _ := newFolders(t)
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			err := withFolder(filepath.Join(dir, "factory"), func(f *folder) error {
				key, err := newKey()
				if err != nil {
					return err
				}
				_, err = f.leaf(&issueFlags{days: 1}, nameFlags{"device", "0.2.481.1/1.2." + string(rune('1'+n))}, nil, key.Public())
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	x, err := readIndex(filepath.Join(dir, "factory"))
	must(t, err)
	if len(x.Issued) != 9 {
		t.Errorf("the index has %d certificates", len(x.Issued))
	}
}

func TestOCSP(t *testing.T) {
	dir, device, factory := newFolders(t)
	root, err := readCertificates([]string{filepath.Join(dir, "root", folderCertificate)})
	must(t, err)
	must(t, withFolder(filepath.Join(dir, "factory"), func(f *folder) error {
		server := httptest.NewServer(&responder{f.authority, f.path})
		defer server.Close()
		ask := func(request []byte, get bool) []byte {
			t.Helper()
			var response *http.Response
			if get {
				response, err = http.Get(server.URL + "/" + url.PathEscape(base64.StdEncoding.EncodeToString(request)))
			} else {
				response, err = http.Post(server.URL, "application/ocsp-request", bytes.NewReader(request))
			}
			must(t, err)
			defer func() { _ = response.Body.Close() }()
			answer, err := io.ReadAll(response.Body)
			must(t, err)
			return answer
		}
		for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
			request, err := ocsp.CreateRequest(device, factory, &ocsp.RequestOptions{Hash: hash})
			must(t, err)
			for _, get := range []bool{false, true} {
				answer, err := ocsp.ParseResponseForCert(ask(request, get), device, factory)
				if err != nil || answer.Status != ocsp.Good || !answer.NextUpdate.After(time.Now()) {
					t.Errorf("%v, %t: %+v, %v", hash, get, answer, err)
				}
			}
		}
		// A certificate of another authority, and one never issued, are unknown.
		request, err := ocsp.CreateRequest(device, root[0], nil)
		must(t, err)
		if answer, err := ocsp.ParseResponse(ask(request, false), nil); err != nil || answer.Status != ocsp.Unknown {
			t.Errorf("of another authority: %+v, %v", answer, err)
		}
		request, err = ocsp.CreateRequest(factory, factory, nil)
		must(t, err)
		if answer, err := ocsp.ParseResponse(ask(request, false), factory); err != nil || answer.Status != ocsp.Unknown {
			t.Errorf("never issued: %+v, %v", answer, err)
		}
		if _, err := ocsp.ParseResponse(ask([]byte{0x30, 0}, false), factory); err != ocsp.ResponseError(ocsp.ResponseError{Status: ocsp.Malformed}) {
			t.Errorf("malformed: %v", err)
		}
		must(t, f.revoke(serialText(device.SerialNumber), 1, time.Now()))
		request, err = ocsp.CreateRequest(device, factory, nil)
		must(t, err)
		if answer, err := ocsp.ParseResponseForCert(ask(request, false), device, factory); err != nil || answer.Status != ocsp.Revoked || answer.RevocationReason != 1 {
			t.Errorf("revoked: %+v, %v", answer, err)
		}
		return nil
	}))
}

// OpenSSL asks with a nonce, checks that the answer has it, and believes it.
func TestOCSPWithOpenSSL(t *testing.T) {
	needOpenSSL(t)
	dir, _, _ := newFolders(t)
	must(t, withFolder(filepath.Join(dir, "factory"), func(f *folder) error {
		server := httptest.NewServer(&responder{f.authority, f.path})
		defer server.Close()
		must(t, os.WriteFile(filepath.Join(dir, "factory.pem"), encodeCertificates(f.certificate), 0o600))
		out, err := exec.CommandContext(t.Context(), "openssl", "ocsp", "-issuer", filepath.Join(dir, "factory.pem"),
			"-cert", filepath.Join(dir, "device.pem"), "-url", server.URL, "-CAfile", filepath.Join(dir, "root", folderCertificate),
			"-verify_other", filepath.Join(dir, "factory.pem"), "-nonce", "-resp_text").CombinedOutput()
		text := string(out)
		if err != nil || !strings.Contains(text, "Response verify OK") || !strings.Contains(text, "OCSP Nonce") ||
			!strings.Contains(text, "device.pem: good") || strings.Contains(text, "WARNING: no nonce") {
			t.Errorf("%v: %s", err, text)
		}
		return nil
	}))
}

// The responder runs as a command until it is told to stop.
func TestOCSPCommand(t *testing.T) {
	dir, device, factory := newFolders(t)
	ctx, stop := context.WithCancel(t.Context())
	stderr, log := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"pki", "ocsp", filepath.Join(dir, "factory"), "--listen", "127.0.0.1:0"}, strings.NewReader(""), io.Discard, log)
		_ = log.Close()
	}()
	var line struct{ Address string }
	must(t, json.NewDecoder(stderr).Decode(&line))
	request, err := ocsp.CreateRequest(device, factory, nil)
	must(t, err)
	response, err := http.Post("http://"+line.Address, "application/ocsp-request", bytes.NewReader(request))
	must(t, err)
	defer func() { _ = response.Body.Close() }()
	octets, err := io.ReadAll(response.Body)
	must(t, err)
	if answer, err := ocsp.ParseResponseForCert(octets, device, factory); err != nil || answer.Status != ocsp.Good {
		t.Errorf("%+v, %v", answer, err)
	}
	// Others issue and revoke meanwhile.
	pki(t, "revoke", filepath.Join(dir, "factory"), "--cert", filepath.Join(dir, "device.pem"))
	stop()
	if code := <-ended; code != 0 {
		t.Errorf("it ends with %d", code)
	}
}

func needOpenSSL(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("MUSTER_REQUIRE_PEERS") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

func aeName(t testing.TB) muster.CertName {
	t.Helper()
	name, err := cert.ParseName(muster.FlavourAEID, "//sp.example.com/C1/S2")
	must(t, err)
	return name
}

// request is the DER of a signing request with some extensions.
func request(t testing.TB, extensions ...pkix.Extension) []byte {
	t.Helper()
	key, err := newKey()
	must(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{ExtraExtensions: extensions}, key)
	must(t, err)
	return der
}

func TestRequestsAskForOneNameInItsForm(t *testing.T) {
	name := aeName(t)
	wanted, err := cert.SubjectAltName(name)
	must(t, err)
	other, err := cert.ParseName(muster.FlavourFQDN, "more.example.com")
	must(t, err)
	more, err := cert.SubjectAltName(name, other)
	must(t, err)
	asDomain := pkix.Extension{Id: wanted.Id, Value: append([]byte{0x30, 0x18, 0x82, 0x16}, name.Text...)}
	critical := wanted
	critical.Critical = true
	forged := request(t, wanted)
	forged[len(forged)-1] ^= 1
	policy := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}
	for what, c := range map[string]struct {
		der  []byte
		want muster.Code
	}{
		"the name":          {request(t, wanted), ""},
		"critical":          {request(t, critical), ""},
		"also to be a CA":   {request(t, wanted, policy), ""},
		"no name":           {request(t), muster.CodeNameMismatch},
		"in another form":   {request(t, asDomain), muster.CodeNameMismatch},
		"another name more": {request(t, more), muster.CodeNameMismatch},
		"signed wrongly":    {forged, muster.CodeRequestMalformed},
		"garbage":           {[]byte{0x30, 0x80}, muster.CodeRequestMalformed},
	} {
		if _, err := parseRequest(c.der, name); muster.CodeOf(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	// Of what else the request asks for, nothing is in the certificate.
	dir := t.TempDir()
	pki(t, "root", filepath.Join(dir, "root"))
	csr, err := parseRequest(request(t, wanted, policy), name)
	must(t, err)
	must(t, withFolder(filepath.Join(dir, "root"), func(f *folder) error {
		chain, err := f.leaf(&issueFlags{days: 1}, nameFlags{"ae-id", name.Text}, nil, csr.PublicKey)
		must(t, err)
		if chain[0].IsCA || len(chain) != 1 {
			t.Errorf("issued %v, CA %t", chain[0].Subject, chain[0].IsCA)
		}
		return nil
	}))
}

func FuzzRequest(f *testing.F) {
	name := aeName(f)
	extension, err := cert.SubjectAltName(name)
	must(f, err)
	f.Add(request(f, extension))
	f.Add(request(f))
	f.Fuzz(func(t *testing.T, der []byte) {
		csr, err := parseRequest(der, name)
		if (err == nil) != (csr != nil) || err != nil && muster.CodeOf(err) == "" {
			t.Fatalf("%v, %v", csr, err)
		}
	})
}

func FuzzOCSPRequest(f *testing.F) {
	dir, device, factory := newFolders(f)
	der, err := ocsp.CreateRequest(device, factory, nil)
	must(f, err)
	f.Add(der)
	// version, requestorName, requestList, requestExtensions
	f.Add([]byte{0x30, 0x13, 0x30, 0x11, 0xa0, 3, 2, 1, 0, 0xa1, 2, 0x81, 0, 0x30, 0, 0xa2, 4, 0x30, 2, 0x30, 0})
	folder, err := openFolder(filepath.Join(dir, "factory"))
	must(f, err)
	must(f, folder.lock.Close())
	r := &responder{folder.authority, folder.path}
	f.Fuzz(func(t *testing.T, der []byte) {
		_, _ = nonceOf(der)
		answer, err := r.answer(der, time.Now())
		if err != nil {
			if muster.CodeOf(err) != muster.CodeRequestMalformed {
				t.Fatal(err)
			}
			return
		}
		if _, err := ocsp.ParseResponse(answer, factory); err != nil {
			t.Fatal(err)
		}
	})
}

func TestTokenKeys(t *testing.T) {
	good := "pkcs11:token=My%20Token;object=root?module-path=/usr/lib/x.so&pin-source=file:/etc/pin"
	k, err := parseTokenKey(good)
	if err != nil || k.token != "My Token" || k.object != "root" || k.module != "/usr/lib/x.so" || k.pin != "/etc/pin" {
		t.Errorf("%s is %+v, %v", good, k, err)
	}
	for _, bad := range []string{
		"", "pkcs11:", "file:x", "pkcs11:token=a;object=b", "pkcs11:token=a;object=b?module-path=/x.so",
		"pkcs11:token=a;token=b;object=b?module-path=/x.so&pin-source=/p", "pkcs11:token=;object=b?module-path=/x.so&pin-source=/p",
		"pkcs11:token=a;object=b;slot-id=1?module-path=/x.so&pin-source=/p", "pkcs11:token=%zz;object=b?module-path=/x.so&pin-source=/p",
		"pkcs11:token=a;object=b?module-path=/x.so&pin-value=98765",
	} {
		if k, err := parseTokenKey(bad); muster.CodeOf(err) != muster.CodeUsage || strings.Contains(err.Error(), "98765") {
			t.Errorf("%q is %+v, %v", bad, k, err)
		}
	}
	open := filepath.Join(t.TempDir(), "pin")
	must(t, os.WriteFile(open, []byte("1234\n"), 0o644))
	if _, err := (tokenKey{pin: open}).readPIN(); muster.CodeOf(err) != muster.CodeConfiguration {
		t.Errorf("a PIN that everybody can read: %v", err)
	}
	must(t, os.Chmod(open, 0o600))
	if pin, err := (tokenKey{pin: open}).readPIN(); pin != "1234" || err != nil {
		t.Errorf("the PIN is %q, %v", pin, err)
	}
}

// The lists and answers of pki are what the status check of a handshake believes.
func TestStatusOfWhatWasRevoked(t *testing.T) {
	dir, device, factory := newFolders(t)
	root, err := readCertificates([]string{filepath.Join(dir, "root", folderCertificate)})
	must(t, err)
	pki(t, "crl", filepath.Join(dir, "root"))
	pki(t, "crl", filepath.Join(dir, "factory"))
	path := []*x509.Certificate{device, factory, root[0]}
	var server *httptest.Server
	must(t, withFolder(filepath.Join(dir, "factory"), func(f *folder) error {
		server = httptest.NewServer(&responder{f.authority, f.path})
		return nil
	}))
	defer server.Close()
	check := func(config revocation.Config, scope revocation.Scope) muster.Code {
		t.Helper()
		checker, err := revocation.New(config)
		must(t, err)
		defer func() { _ = checker.Close() }()
		return muster.CodeOf(checker.Check(t.Context(), path, revocation.Question{Now: time.Now(), Scope: scope}).Err())
	}
	lists := revocation.Config{Files: []string{filepath.Join(dir, "root", folderCRL), filepath.Join(dir, "factory", folderCRL)}}
	asking := revocation.Config{
		Responders: []string{server.URL}, Nonce: revocation.NonceRequired,
		Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Deadline: patience,
	}
	if byList, byAnswer := check(lists, revocation.ScopePath), check(asking, revocation.ScopeLeaf); byList != "" || byAnswer != "" {
		t.Errorf("before: %q by list, %q by answer", byList, byAnswer)
	}
	pki(t, "revoke", filepath.Join(dir, "factory"), "--cert", filepath.Join(dir, "device.pem"))
	if byList, byAnswer := check(lists, revocation.ScopePath), check(asking, revocation.ScopeLeaf); byList != muster.CodeRevoked || byAnswer != muster.CodeRevoked {
		t.Errorf("after: %q by list, %q by answer", byList, byAnswer)
	}
	pki(t, "revoke", filepath.Join(dir, "root"), "--serial", serialText(factory.SerialNumber), "--reason", "cACompromise")
	if byList := check(lists, revocation.ScopePath); byList != muster.CodeRevoked {
		t.Errorf("the factory: %q", byList)
	}
}
