package seal

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// A Vault is a Keeper: a key in the transit engine of HashiCorp Vault or OpenBao,
// which encrypts and decrypts without giving the key away. All fields are needed.
type Vault struct {
	Address string       // of the server, as https://vault.example:8200
	Mount   string       // of the transit engine
	Key     string       // its name
	Client  *http.Client // with its timeout, and the roots of the server
	// Token returns the token to send. It is asked each time, since tokens are renewed.
	Token func() (string, error)
}

// maxVaultAnswer bounds an answer in octets.
const maxVaultAnswer = 64 << 10

// Encrypt implements Keeper.
func (v *Vault) Encrypt(ctx context.Context, octets []byte) (string, error) {
	plaintext := base64.StdEncoding.EncodeToString(octets)
	answer, err := v.ask(ctx, "encrypt", map[string]string{"plaintext": plaintext})
	if err == nil && !strings.HasPrefix(answer.Ciphertext, "vault:") {
		err = errors.New("the answer has no ciphertext")
	}
	return answer.Ciphertext, err
}

// Decrypt implements Keeper.
func (v *Vault) Decrypt(ctx context.Context, text string) ([]byte, error) {
	answer, err := v.ask(ctx, "decrypt", map[string]string{"ciphertext": text})
	if err != nil {
		return nil, err
	}
	octets, err := base64.StdEncoding.DecodeString(answer.Plaintext)
	if err != nil {
		return nil, errors.New("the answer has no plaintext in base64")
	}
	return octets, nil
}

type vaultData struct {
	Ciphertext string `json:"ciphertext"`
	Plaintext  string `json:"plaintext"`
}

// ask posts to the transit engine. No error tells what was sent or received, but
// for the server's own words on a refusal.
func (v *Vault) ask(ctx context.Context, operation string, question map[string]string) (vaultData, error) {
	token, err := v.Token()
	if err != nil {
		return vaultData{}, err
	}
	body, err := json.Marshal(question)
	if err != nil {
		return vaultData{}, err
	}
	defer clear(body)
	target, err := url.JoinPath(v.Address, "v1", v.Mount, operation, v.Key)
	if err != nil {
		return vaultData{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return vaultData{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Vault-Token", token)
	request.Header.Set("X-Vault-Request", "true")
	response, err := v.Client.Do(request)
	if err != nil {
		return vaultData{}, err
	}
	defer response.Body.Close()
	octets, err := io.ReadAll(io.LimitReader(response.Body, maxVaultAnswer))
	if err != nil {
		return vaultData{}, err
	}
	defer clear(octets)
	var answer struct {
		Data   vaultData `json:"data"`
		Errors []string  `json:"errors"`
	}
	decoded := json.Unmarshal(octets, &answer)
	switch {
	case response.StatusCode != http.StatusOK:
		return vaultData{}, fmt.Errorf("%s with the key %s: status %d: %.200q", operation, v.Key, response.StatusCode, strings.Join(answer.Errors, "; "))
	case decoded != nil:
		return vaultData{}, fmt.Errorf("%s with the key %s: the answer is not JSON", operation, v.Key)
	}
	return answer.Data, nil
}
