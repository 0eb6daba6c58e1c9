package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"muster"
	"muster/seal"
)

// A fakeVault answers as the transit engine of Vault does, for one token and key.
type fakeVault struct {
	t    *testing.T
	aead cipher.AEAD
}

const vaultToken = "hvs.secret"

func newFakeVault(t *testing.T) *httptest.Server {
	t.Helper()
	block, err := aes.NewCipher(make([]byte, 32))
	must(t, err)
	aead, err := cipher.NewGCM(block)
	must(t, err)
	server := httptest.NewTLSServer(&fakeVault{t, aead})
	t.Cleanup(server.Close)
	return server
}

func (v *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, text string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"errors":[%q]}`, text)
	}
	var question struct{ Plaintext, Ciphertext string }
	if err := json.NewDecoder(r.Body).Decode(&question); err != nil {
		refuse(http.StatusBadRequest, "no JSON")
		return
	}
	if r.Header.Get("X-Vault-Token") != vaultToken {
		refuse(http.StatusForbidden, "permission denied")
		return
	}
	nonce := make([]byte, v.aead.NonceSize())
	data := map[string]any{}
	switch r.URL.Path {
	case "/v1/transit/encrypt/muster":
		octets, err := base64.StdEncoding.DecodeString(question.Plaintext)
		if err != nil || len(octets) != seal.RootSize {
			v.t.Errorf("the plaintext has %d octets, %v", len(octets), err)
		}
		_, _ = rand.Read(nonce)
		data["ciphertext"] = "vault:v1:" + base64.StdEncoding.EncodeToString(v.aead.Seal(nonce, nonce, octets, nil))
	case "/v1/transit/decrypt/muster":
		octets, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(question.Ciphertext, "vault:v1:"))
		if err == nil && len(octets) > len(nonce) {
			octets, err = v.aead.Open(nil, octets[:len(nonce)], octets[len(nonce):], nil)
		}
		if err != nil {
			refuse(http.StatusBadRequest, "invalid ciphertext: message authentication failed")
			return
		}
		data["plaintext"] = base64.StdEncoding.EncodeToString(octets)
	case "/v1/transit/encrypt/elsewhere", "/v1/transit/decrypt/elsewhere":
		http.Redirect(w, r, "/v1/transit/decrypt/muster", http.StatusTemporaryRedirect)
		return
	default:
		refuse(http.StatusNotFound, "no such key")
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"request_id": "1", "data": data})
}

// keptStore goes through the life of a store whose root key is encrypted by a
// keeper: made, checked, given another root key, checked. The files give no key.
func keptStore(t *testing.T, folder, keeper string) (config string) {
	t.Helper()
	config = filepath.Join(folder, "mef.yaml")
	must(t, os.WriteFile(config, []byte(fmt.Sprintf(
		"fqdn: mef.lab.example\nlisten: {tls: \"127.0.0.1:0\"}\nstore: {path: mef.db, root_key: root-key, %s}\nmafs: []\n", keeper)), 0o600))
	for _, args := range [][]string{
		{"store", "create", "--config", config, "--new-root-key"},
		{"store", "check", "--config", config},
		{"store", "rotate-data-key", "--config", config},
		{"store", "rotate-root", "--config", config},
		{"store", "check", "--config", config},
	} {
		if code, _, stderr := command(t, args...); code != exitOK {
			t.Fatalf("%v: exit code %d: %s", args, code, stderr)
		}
	}
	if _, err := seal.ReadRoot(filepath.Join(folder, "root-key")); err == nil {
		t.Error("the file holds a root key in the clear")
	}
	return config
}

func TestRootKeyInAVault(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	server := newFakeVault(t)
	anchor := filepath.Join(folder, "vault.pem")
	must(t, os.WriteFile(anchor, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	token := filepath.Join(folder, "token")
	must(t, os.WriteFile(token, []byte(vaultToken+"\n"), 0o600))
	vault := func(address, key string) string {
		return fmt.Sprintf("vault: {address: %q, key: %s, token_file: token, anchors: [vault.pem]}", address, key)
	}
	config := keptStore(t, folder, vault(server.URL, "muster"))

	refused := func(what, want string) {
		t.Helper()
		code, _, stderr := command(t, "store", "check", "--config", config)
		if code == exitOK || !strings.Contains(stderr, want) || !strings.Contains(stderr, string(muster.CodeConfiguration)) || strings.Contains(stderr, vaultToken) {
			t.Errorf("%s: exit code %d: %s", what, code, stderr)
		}
	}
	rewrite := func(keeper string) {
		must(t, os.WriteFile(config, []byte("fqdn: mef.lab.example\nlisten: {tls: \"127.0.0.1:0\"}\nstore: {path: mef.db, root_key: root-key, "+keeper+"}\nmafs: []\n"), 0o600))
	}
	must(t, os.WriteFile(token, []byte("hvs.wrong"), 0o600))
	refused("another token", "permission denied")
	must(t, os.WriteFile(token, []byte("\n"), 0o600))
	refused("no token", "holds no token")
	must(t, os.WriteFile(token, []byte(vaultToken), 0o600))
	must(t, os.Chmod(token, 0o644))
	refused("a token for everybody", "has mode 0644")
	must(t, os.Chmod(token, 0o600))
	rewrite(vault(server.URL, "unknown"))
	refused("another key", "no such key")
	rewrite(vault(server.URL, "elsewhere"))
	refused("a redirection", "status 307")
	rewrite(vault(strings.Replace(server.URL, "https", "http", 1), "muster"))
	refused("no TLS", "begins with https://")
	rewrite(`vault: {address: "https://127.0.0.1:1", key: muster, token_file: token, anchors: [vault.pem]}`)
	refused("nobody there", "refused")
	rewrite(`token: "pkcs11:token=x", ` + vault(server.URL, "muster"))
	refused("two keepers", "both vault and token")
	rewrite(vault(server.URL, "muster"))
	must(t, os.WriteFile(filepath.Join(folder, "root-key"), []byte("vault:v1:"+strings.Repeat("A", 64)), 0o600))
	refused("another ciphertext", "invalid ciphertext")
}
