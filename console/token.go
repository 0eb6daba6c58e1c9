package console

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"
	"time"

	"muster"
)

// The bounds of tokens.
const (
	maxTokens       = 256             // of one client that are valid at a time
	maxTokenTime    = time.Hour       // of one that a program bears
	signInTime      = 2 * time.Minute // in which a one-time link is to be opened
	sessionTime     = 8 * time.Hour   // of a browser
	tokenPrefix     = "muster_"       // so that a leaked one is recognized
	sessionCookie   = "__Host-muster" // only over HTTPS, only for this host
	shownCookie     = "__Host-muster-shown"
	tokenSecretSize = 32 // octets
)

// A tokenUse is what a token is good for.
type tokenUse int

const (
	bearerToken  tokenUse = iota // Authorization: Bearer
	signInToken                  // becomes a session, once
	sessionToken                 // a cookie
)

// A token lets in whoever bears it as the client that had it issued. Only its hash
// is kept, and in memory alone: none outlives the process.
type token struct {
	client muster.CertName
	role   Role
	chain  []*x509.Certificate // of the client
	use    tokenUse
	until  time.Time
}

// tokens are those that are valid.
type tokens struct {
	mu   sync.Mutex
	kept map[[sha256.Size]byte]token // guarded by mu
}

// issue returns the secret of a new token.
func (t *tokens) issue(made token, now time.Time) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	valid := 0
	for hash, old := range t.kept {
		if !now.Before(old.until) {
			delete(t.kept, hash)
		} else if old.client == made.client {
			valid++
		}
	}
	if valid >= maxTokens {
		return "", muster.Refuse(muster.CodeBusy, "%d tokens of %s are valid; wait for one to expire", valid, made.client)
	}
	octets := make([]byte, tokenSecretSize)
	rand.Read(octets) // never fails
	secret := tokenPrefix + base64.RawURLEncoding.EncodeToString(octets)
	if t.kept == nil {
		t.kept = map[[sha256.Size]byte]token{}
	}
	t.kept[sha256.Sum256([]byte(secret))] = made
	return secret, nil
}

// find returns the token with a secret.
func (t *tokens) find(secret string, use tokenUse, now time.Time) (token, bool) {
	hash := sha256.Sum256([]byte(secret))
	t.mu.Lock()
	defer t.mu.Unlock()
	found, ok := t.kept[hash]
	if !ok || found.use != use || !now.Before(found.until) {
		return token{}, false
	}
	return found, true
}

// revoke forgets a token, and reports whether there was one.
func (t *tokens) revoke(secret string) bool {
	hash := sha256.Sum256([]byte(secret))
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.kept[hash]
	delete(t.kept, hash)
	return ok
}

// A presented token is what a request has.
type presented struct {
	text string
	use  tokenUse
}

// tokenOf returns the token of a request: a header before a cookie.
func tokenOf(r *http.Request) (presented, bool) {
	if header := r.Header.Get("Authorization"); header != "" {
		scheme, text, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			text = ""
		}
		return presented{text, bearerToken}, true
	}
	if cookie, err := r.Cookie(sessionCookie); err == nil {
		return presented{cookie.Value, sessionToken}, true
	}
	return presented{}, false
}
