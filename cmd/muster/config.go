package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"muster"
	"muster/binding/awkward"
	"muster/cert"
	"muster/console"
	"muster/handshake/tlspsk"
	"muster/mef"
	"muster/revocation"
)

// Relative paths in a configuration are relative to its file; credential:NAME is
// the file that systemd has loaded for this process under that name.

// A mefConfig is the file that muster mef reads.
type mefConfig struct {
	// FQDN is the MEF-FQDN, which clients send as server name and which ends each KeID.
	FQDN muster.FQDN `yaml:"fqdn"`
	// Identity is the MEF's own certificate, an FQDN certificate for server use.
	Identity identityConfig `yaml:"identity"`
	// Listen are the addresses for Enrolees and MAFs; at least one.
	Listen listenConfig `yaml:"listen"`
	// Store is where enrolments are kept.
	Store storeConfig `yaml:"store"`
	// Handshake are the limits of handshakes.
	Handshake handshakeConfig `yaml:"handshake"`
	// Derivation is master-credential (the default) or usage-constrained, as on the Enrolees.
	Derivation muster.DerivationProfile `yaml:"derivation"`
	// Profile is onem2m (the default), onem2m-constrained or rfc5280: how strict certificates are judged.
	Profile cert.Profile `yaml:"profile"`
	// Status says how certificates are asked after; without it they are not.
	Status *statusConfig `yaml:"status"`
	// Intermediates are PEM files of authorities, for peers that send their leaf only.
	Intermediates []string `yaml:"intermediates"`
	// FetchWindow is how long after its first fetch a MAF may fetch a key again; 5m by default.
	FetchWindow time.Duration `yaml:"fetch_window"`
	// MaxFetches is how often a MAF may fetch a key in all; 3 by default.
	MaxFetches int `yaml:"max_fetches"`
	// KpmOverlap is how long an Enrolee's older pre-provisioned keys stay valid beside a newer one that is not used; 720h by default.
	KpmOverlap time.Duration `yaml:"kpm_overlap"`
	// MaxLive is how many unexpired enrolments an Enrolee may have of which a MAF fetched a key; 64 by default.
	MaxLive int `yaml:"max_live"`
	// Administrators are the stakeholders for which every MEF client may register.
	Administrators []muster.FQDN `yaml:"administrators"`
	// Stakeholders are those that admit some clients, or have configurations for them.
	Stakeholders []stakeholderConfig `yaml:"stakeholders"`
	// Metrics is where measurements and health are served.
	Metrics metricsConfig `yaml:"metrics"`
	// Tracing is where spans are sent.
	Tracing tracingConfig `yaml:"tracing"`
	// Audit is where acts are written down.
	Audit auditConfig `yaml:"audit"`
	// Admin is where operators are answered.
	Admin adminConfig `yaml:"admin"`
	// MAFs are those that may fetch keys.
	MAFs []mafClientConfig `yaml:"mafs"`
	// Instructions say which Enrolees to enrol for which MAFs.
	Instructions []instructionConfig `yaml:"instructions"`
	// Verdicts say who is refused although an instruction admits it.
	Verdicts []verdictConfig `yaml:"verdicts"`

	file    string        // this was read from
	managed console.Rules // of operators, from admin.rules
	awkward *awkward.Mode // nil but for tests of clients
}

// A mafConfig is the file that muster maf reads.
type mafConfig struct {
	// FQDN is the MAF-FQDN, which is the MAF-ID.
	FQDN muster.FQDN `yaml:"fqdn"`
	// Identity is the MAF's own certificate, an FQDN certificate for client use at the MEFs.
	Identity identityConfig `yaml:"identity"`
	// Listen are the addresses for MAF clients; at least one.
	Listen listenConfig `yaml:"listen"`
	// Store is where credentials and registrations are kept.
	Store storeConfig `yaml:"store"`
	// Handshake are the limits of handshakes.
	Handshake handshakeConfig `yaml:"handshake"`
	// Profile is onem2m (the default), onem2m-constrained or rfc5280: how strict the MEFs' certificates are judged.
	Profile cert.Profile `yaml:"profile"`
	// Status says how the MEFs' certificates are asked after. Without it, none is accepted,
	// since a MAF checks the status of its MEF; mode: off is the way to do without.
	Status *statusConfig `yaml:"status"`
	// Metrics is where measurements and health are served.
	Metrics metricsConfig `yaml:"metrics"`
	// Tracing is where spans are sent.
	Tracing tracingConfig `yaml:"tracing"`
	// Audit is where acts are written down.
	Audit auditConfig `yaml:"audit"`
	// Admin is where operators are answered.
	Admin adminConfig `yaml:"admin"`
	// MEFs are those whose KeIDs are accepted.
	MEFs []endpointConfig `yaml:"mefs"`
	// Clients are those that authenticate by a certificate and have no Master Credential.
	Clients []clientConfig `yaml:"clients"`
	// Intermediates are PEM files of authorities, for clients that send their leaf only.
	Intermediates []string `yaml:"intermediates"`
	// Administrators are the stakeholders for which every client may register.
	Administrators []muster.FQDN `yaml:"administrators"`
	// Stakeholders are those that admit some clients, or have configurations for them.
	Stakeholders []stakeholderConfig `yaml:"stakeholders"`
	// KeIDLifetime is how long a KeID opens sessions after its first success; 10m by default.
	KeIDLifetime time.Duration `yaml:"keid_lifetime"`
	// FetchTimeout bounds the question to the MEF within a handshake; 3s by default.
	FetchTimeout time.Duration `yaml:"fetch_timeout"`
	// RefusalMemory is how long a MEF's refusal is remembered; 30s by default.
	RefusalMemory time.Duration `yaml:"refusal_memory"`

	file    string        // this was read from
	awkward *awkward.Mode // nil but for tests of clients
}

// An enroleeConfig is the file that muster enrol reads.
type enroleeConfig struct {
	// EnroleeID is the Absolute AE-ID or CSE-ID of the device.
	EnroleeID muster.EnroleeID `yaml:"enrolee_id"`
	// Identity is the certificate from the factory.
	Identity identityConfig `yaml:"identity"`
	// Kpm is the pre-provisioned key of a device that has no certificate.
	Kpm kpmConfig `yaml:"kpm"`
	// MEF is where to enrol.
	MEF endpointConfig `yaml:"mef"`
	// MAF is where to attach; it needs no anchors.
	MAF endpointConfig `yaml:"maf"`
	// AdminFQDN is the administrating stakeholder to register with.
	AdminFQDN muster.FQDN `yaml:"admin_fqdn"`
	// Labels are given to the registration.
	Labels []string `yaml:"labels"`
	// Derivation is master-credential (the default) or usage-constrained, as on the MEF.
	Derivation muster.DerivationProfile `yaml:"derivation"`
	// Profile is onem2m (the default), onem2m-constrained or rfc5280: how strict the MEF's certificate is judged.
	Profile cert.Profile `yaml:"profile"`
	// Credentials is the file in which the Master Credential is kept.
	Credentials credentialsConfig `yaml:"credentials"`
	// Commands say who performs what the MEF wants done; without it the device does not ask for commands.
	Commands commandsConfig `yaml:"commands"`
	// Handshake are the limits of handshakes.
	Handshake handshakeConfig `yaml:"handshake"`
	// Unconfirmed skips the request by which the device learns that the MEF has stored the enrolment.
	Unconfirmed bool `yaml:"unconfirmed"`
	// Tracing is where spans are sent.
	Tracing tracingConfig `yaml:"tracing"`
}

// An identityConfig is a certificate and its key.
type identityConfig struct {
	// Certificate is a PEM file: the leaf, then its intermediates.
	Certificate string `yaml:"certificate"`
	// Key is a PEM file with the leaf's private key.
	Key string `yaml:"key"`
	// Staple is a file with an OCSP response in DER that a server sends with its certificate over TLS.
	Staple string `yaml:"staple"`
}

// A kpmConfig is a pre-provisioned key in a file of its own, as muster kpm seal writes it.
type kpmConfig struct {
	// ID is the KpmID, which the device sends as psk_identity.
	ID muster.KpmID `yaml:"id"`
	// Path is the file with the sealed key.
	Path string `yaml:"path"`
	// RootKey is the file of the key-encryption key, readable by its owner only.
	RootKey string `yaml:"root_key"`
}

// A clientConfig is a MAF client with a certificate.
type clientConfig struct {
	// Certificate is the flavour and the name in the certificate.
	Certificate certificateConfig `yaml:"certificate"`
	// Anchors are PEM files of the roots under which that name is meant.
	Anchors []string `yaml:"anchors"`
	// EnroleeID is the Absolute AE-ID or CSE-ID of the client.
	EnroleeID muster.EnroleeID `yaml:"enrolee_id"`
	// Lifetime bounds each registration and key of the client; 24h by default.
	Lifetime time.Duration `yaml:"lifetime"`
}

// A listenConfig is where a function listens: host:port, or systemd:NAME for the
// socket with that FileDescriptorName which systemd has opened; empty for not at all.
type listenConfig struct {
	// TLS is the TCP address.
	TLS string `yaml:"tls"`
	// DTLS is the UDP address.
	DTLS string `yaml:"dtls"`
	// Origins are the web origins, as https://console.example, whose pages may connect by WebSocket; none by default.
	Origins []string `yaml:"origins"`
}

// A storeConfig is where a MEF or MAF keeps sealed keys: path or postgres.
type storeConfig struct {
	// Path is the file of an SQLite database, which one process has to itself.
	Path string `yaml:"path"`
	// Postgres is a URL or the keywords of a PostgreSQL database, which several processes may share; better with PGPASSFILE or a certificate than with a password in it.
	Postgres string `yaml:"postgres"`
	// RootKey is the file of the key-encryption key, readable by its owner only.
	RootKey string `yaml:"root_key"`
	// Vault has the key under which that file is encrypted, if it is.
	Vault *vaultConfig `yaml:"vault"`
	// Token is the PKCS#11 URI of the AES key under which that file is encrypted, if it is, as pkcs11:token=muster;object=root?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/muster/pin.
	Token string `yaml:"token"`
}

// A credentialsConfig is a device's file with sealed keys in it.
type credentialsConfig struct {
	// Path is the file.
	Path string `yaml:"path"`
	// RootKey is the file of the key-encryption key, readable by its owner only.
	RootKey string `yaml:"root_key"`
}

// A handshakeConfig bounds handshakes.
type handshakeConfig struct {
	// Timeout is the time for a whole handshake; 10s by default.
	Timeout time.Duration `yaml:"timeout"`
	// MTU is the largest datagram of a DTLS handshake in octets, 256 to 1024; 1024 by default.
	MTU int `yaml:"mtu"`
	// NoCBC withdraws the suites with CBC over TCP, which the standard makes mandatory.
	NoCBC bool `yaml:"no_cbc"`
	// PSKSuites are the suites with a pre-shared key over TCP, the preferred first; GCM, then CBC by default.
	PSKSuites []pskSuite `yaml:"psk_suites"`
	// RefuseMACThenEncrypt refuses CBC with peers that lack encrypt_then_mac (RFC 7366).
	RefuseMACThenEncrypt bool `yaml:"refuse_mac_then_encrypt"`
	// ServerNameOptional admits clients that send no server name, except with a pre-shared key over TCP.
	ServerNameOptional bool `yaml:"server_name_optional"`
}

// A mafClientConfig is a MAF that may fetch keys from a MEF.
type mafClientConfig struct {
	// FQDN is the MAF-ID, which its certificate carries.
	FQDN muster.FQDN `yaml:"fqdn"`
	// Status overrides the mode of the MEF's status: hard, soft or off.
	Status *revocation.Mode `yaml:"status"`
	// Anchors are PEM files of the roots under which that name is meant.
	Anchors []string `yaml:"anchors"`
}

// An endpointConfig is a MEF or MAF as its clients know it.
type endpointConfig struct {
	// FQDN is its name, sent as server name and looked for in its certificate.
	FQDN muster.FQDN `yaml:"fqdn"`
	// Address is host:port.
	Address string `yaml:"address"`
	// Transport is tls (the default of a MEF) or dtls (that of a MAF).
	Transport transport `yaml:"transport"`
	// Anchors are PEM files of the roots under which the name is meant.
	Anchors []string `yaml:"anchors"`
	// Enrolees are what the identifiers begin with that this MEF may answer for, as //sp.example/. Only for the MEFs of a MAF: one that is
	// alone answers for all by default; of several each needs some, and what two share stands in both lists alike.
	Enrolees []string `yaml:"enrolees"`
}

// An instructionConfig is one Enrolee, or a group of them, as its MEF knows it.
type instructionConfig struct {
	// Certificate is the flavour and the name, or for a group the pattern of names, in the certificates.
	Certificate certificateConfig `yaml:"certificate"`
	// Anchors are PEM files of the roots under which these names are meant.
	Anchors []string `yaml:"anchors"`
	// KpmIDs name the pre-provisioned keys of an Enrolee without certificate; several while one takes over.
	KpmIDs []muster.KpmID `yaml:"kpm_ids"`
	// EnroleeID is the Absolute AE-ID or CSE-ID assigned to the Enrolee; not for a group.
	EnroleeID muster.EnroleeID `yaml:"enrolee_id"`
	// Template forms the identifiers of a group, as //sp.example/{model}-{serial}.
	Template string `yaml:"template"`
	// Status overrides the mode of the MEF's status: hard, soft or off.
	Status *revocation.Mode `yaml:"status"`
	// Targets are the MAF-IDs that may fetch a key for the Enrolee.
	Targets []muster.FQDN `yaml:"targets"`
	// Lifetime bounds the Enrolment Key and all that is derived from it; 24h by default.
	Lifetime time.Duration `yaml:"lifetime"`
}

// A certificateConfig is a name in a certificate.
type certificateConfig struct {
	// Flavour is device, node-id, cse-id, ae-id, fqdn or raw-public-key.
	Flavour muster.Flavour `yaml:"flavour"`
	// Name is the name in the flavour's canonical form.
	Name string `yaml:"name"`
	// Pattern stands in place of Name: 0.2.481.1/100.*, *.region.example, or * for every name.
	Pattern string `yaml:"pattern"`
}

// A verdictConfig is the operator's own word on an Enrolee or a certificate.
type verdictConfig struct {
	// Verdict is ban (for good), evict (may enrol again) or suspend.
	Verdict mef.Sentence `yaml:"verdict"`
	// EnroleeID is whom it is about; or else it is Certificate or Digest.
	EnroleeID muster.EnroleeID `yaml:"enrolee_id"`
	// Certificate is the flavour and name in the certificates that it is about.
	Certificate certificateConfig `yaml:"certificate"`
	// Digest is the SHA-256 of the one certificate that it is about, in 64 hexadecimal digits.
	Digest string `yaml:"digest"`
	// Before is the time before which enrolments end, as 2026-01-31T12:00:00Z; needed to evict.
	Before time.Time `yaml:"before"`
	// Reason is shown in the log.
	Reason string `yaml:"reason"`
}

// A transport is "tls" or "dtls".
type transport string

const (
	overTLS  transport = "tls"
	overDTLS transport = "dtls"
)

func (t *transport) UnmarshalText(text []byte) error {
	switch v := transport(text); v {
	case overTLS, overDTLS:
		*t = v
		return nil
	default:
		return configErrorf("%q is not a transport: want tls or dtls", text)
	}
}

func orDefault[T comparable](v *T, fallback T) {
	var zero T
	if *v == zero {
		*v = fallback
	}
}

// credentialPrefix marks a path as the name of a credential of systemd's, as
// LoadCredential= gives it.
const credentialPrefix = "credential:"

// resolve makes paths relative to the file that names them, and finds credentials.
// One that cannot be found keeps its name, with which opening it fails.
func resolve(file string, paths ...*string) {
	for _, p := range paths {
		if name, ok := strings.CutPrefix(*p, credentialPrefix); ok {
			if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" && filepath.IsLocal(name) {
				*p = filepath.Join(dir, name)
			}
			continue
		}
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(file), *p)
		}
	}
}

func resolveAll(file string, paths []string) {
	for i := range paths {
		resolve(file, &paths[i])
	}
}

func readMEFConfig(path string) (*mefConfig, error) {
	c := &mefConfig{file: path}
	if err := readYAML(path, c); err != nil {
		return nil, err
	}
	resolve(path, &c.Identity.Certificate, &c.Identity.Key, &c.Identity.Staple, &c.Store.Path, &c.Store.RootKey)
	resolveAll(path, c.Intermediates)
	c.Status.resolve(path)
	resolve(path, &c.Audit.File)
	c.Admin.resolve(path)
	for i := range c.MAFs {
		resolveAll(path, c.MAFs[i].Anchors)
	}
	for i := range c.Instructions {
		resolveAll(path, c.Instructions[i].Anchors)
		orDefault(&c.Instructions[i].Lifetime, 24*time.Hour)
	}
	if err := c.Handshake.setDefaults(path); err != nil {
		return nil, err
	}
	orDefault(&c.Derivation, muster.ProfileMasterCredential)
	orDefault(&c.FetchWindow, 5*time.Minute)
	orDefault(&c.MaxFetches, 3)
	orDefault(&c.KpmOverlap, 30*24*time.Hour)
	orDefault(&c.MaxLive, 64)
	if c.Listen.TLS == "" && c.Listen.DTLS == "" {
		return nil, configErrorf("%s: listen has neither tls nor dtls", path)
	}
	var err error
	if c.managed, err = readManaged(c.Admin.Rules); err != nil {
		return nil, err
	}
	return c, c.Store.check(path)
}

// anchorFiles returns the files with the function's trust anchors, perhaps some twice.
func (c *mefConfig) anchorFiles() (files []string) {
	for _, m := range c.MAFs {
		files = append(files, m.Anchors...)
	}
	for _, in := range c.Instructions {
		files = append(files, in.Anchors...)
	}
	return files
}

// anchorFiles returns the files with the function's trust anchors, perhaps some twice.
func (c *mafConfig) anchorFiles() (files []string) {
	for _, m := range c.MEFs {
		files = append(files, m.Anchors...)
	}
	for _, client := range c.Clients {
		files = append(files, client.Anchors...)
	}
	return files
}

func readMAFConfig(path string) (*mafConfig, error) {
	c := &mafConfig{file: path}
	if err := readYAML(path, c); err != nil {
		return nil, err
	}
	resolve(path, &c.Identity.Certificate, &c.Identity.Key, &c.Identity.Staple, &c.Store.Path, &c.Store.RootKey)
	if c.Status == nil {
		c.Status = &statusConfig{}
	}
	c.Status.resolve(path)
	resolve(path, &c.Audit.File)
	c.Admin.resolve(path)
	for i := range c.MEFs {
		resolveAll(path, c.MEFs[i].Anchors)
		orDefault(&c.MEFs[i].Transport, overTLS)
		if c.MEFs[i].Transport != overTLS {
			return nil, configErrorf("%s: a MAF asks its MEF over tls", path)
		}
	}
	resolveAll(path, c.Intermediates)
	for i := range c.Clients {
		resolveAll(path, c.Clients[i].Anchors)
		orDefault(&c.Clients[i].Lifetime, 24*time.Hour)
	}
	if err := c.Handshake.setDefaults(path); err != nil {
		return nil, err
	}
	orDefault(&c.KeIDLifetime, 10*time.Minute)
	orDefault(&c.FetchTimeout, 3*time.Second)
	orDefault(&c.RefusalMemory, 30*time.Second)
	switch {
	case c.Listen.TLS == "" && c.Listen.DTLS == "":
		return nil, configErrorf("%s: listen has neither tls nor dtls", path)
	case len(c.Administrators)+len(c.Stakeholders) == 0:
		return nil, configErrorf("%s: administrators is empty, so that no client could register", path)
	}
	return c, c.Store.check(path)
}

func readEnroleeConfig(path string) (*enroleeConfig, error) {
	c := new(enroleeConfig)
	if err := readYAML(path, c); err != nil {
		return nil, err
	}
	resolve(path, &c.Identity.Certificate, &c.Identity.Key, &c.Identity.Staple, &c.Credentials.Path, &c.Credentials.RootKey)
	resolveAll(path, c.MEF.Anchors)
	if err := c.Handshake.setDefaults(path); err != nil {
		return nil, err
	}
	orDefault(&c.Derivation, muster.ProfileMasterCredential)
	orDefault(&c.MEF.Transport, overTLS)
	orDefault(&c.MAF.Transport, overDTLS)
	if err := c.Commands.setDefaults(path); err != nil {
		return nil, err
	}
	resolve(path, &c.Kpm.Path, &c.Kpm.RootKey)
	if hasKpm := !c.Kpm.ID.IsZero(); hasKpm == (c.Identity != identityConfig{}) || hasKpm != (c.Kpm.Path != "" && c.Kpm.RootKey != "") {
		return nil, configErrorf("%s: a device has either identity, or kpm with id, path and root_key", path)
	}
	if c.MEF.Enrolees != nil || c.MAF.Enrolees != nil {
		return nil, configErrorf("%s: enrolees is for the MEFs of a MAF", path)
	}
	if c.Credentials.Path == "" || c.Credentials.RootKey == "" {
		return nil, configErrorf("%s: credentials lacks path or root_key", path)
	}
	return c, nil
}

func (c *handshakeConfig) setDefaults(path string) error {
	orDefault(&c.Timeout, 10*time.Second)
	orDefault(&c.MTU, 1024)
	if c.PSKSuites == nil {
		c.PSKSuites = []pskSuite{pskSuite(tlspsk.TLS_PSK_WITH_AES_128_GCM_SHA256), pskSuite(tlspsk.TLS_PSK_WITH_AES_128_CBC_SHA256)}
		if c.NoCBC {
			c.PSKSuites = c.PSKSuites[:1]
		}
	}
	if c.NoCBC && slices.Contains(c.PSKSuites, pskSuite(tlspsk.TLS_PSK_WITH_AES_128_CBC_SHA256)) {
		return configErrorf("%s: handshake has no_cbc and a psk_suites with CBC", path)
	}
	return nil
}

// A pskSuite is a cipher suite with a pre-shared key over TCP, by its name at IANA.
type pskSuite tlspsk.Suite

func (s *pskSuite) UnmarshalText(text []byte) error {
	for _, known := range []tlspsk.Suite{tlspsk.TLS_PSK_WITH_AES_128_GCM_SHA256, tlspsk.TLS_PSK_WITH_AES_128_CBC_SHA256} {
		if string(text) == known.String() {
			*s = pskSuite(known)
			return nil
		}
	}
	return configErrorf("%q is not a suite: want %s or %s", text, tlspsk.TLS_PSK_WITH_AES_128_GCM_SHA256, tlspsk.TLS_PSK_WITH_AES_128_CBC_SHA256)
}

func (c *handshakeConfig) pskSuites() []tlspsk.Suite {
	suites := make([]tlspsk.Suite, len(c.PSKSuites))
	for i, s := range c.PSKSuites {
		suites[i] = tlspsk.Suite(s)
	}
	return suites
}

func (c storeConfig) check(path string) error {
	switch {
	case c.RootKey == "" || c.Path == "" && c.Postgres == "":
		return configErrorf("%s: store lacks path or postgres, or root_key", path)
	case c.Path != "" && c.Postgres != "":
		return configErrorf("%s: store has both path and postgres", path)
	case c.Vault != nil && c.Token != "":
		return configErrorf("%s: store has both vault and token", path)
	}
	return c.Vault.check(path)
}

// load reads the certificate and key.
func (c identityConfig) load() (*tls.Certificate, error) {
	identity, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, configErrorf("identity: %v", err)
	}
	if c.Staple != "" {
		if identity.OCSPStaple, err = os.ReadFile(c.Staple); err != nil {
			return nil, configErrorf("identity: %v", err)
		}
	}
	return &identity, nil
}

// readCertificates reads every certificate of some PEM files.
func readCertificates(files []string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, file := range files {
		rest, err := os.ReadFile(file)
		if err != nil {
			return nil, configErrorf("%v", err)
		}
		before := len(all)
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type != "CERTIFICATE" {
				return nil, configErrorf("%s: a %s where certificates are expected", file, block.Type)
			}
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, configErrorf("%s: %v", file, err)
			}
			all = append(all, certificate)
		}
		if len(all) == before {
			return nil, configErrorf("%s: no certificate in it", file)
		}
	}
	return all, nil
}

// An anchorCache reads each PEM file once, however many instructions name it.
type anchorCache map[string][]*x509.Certificate

func (c anchorCache) read(files []string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, file := range files {
		if c[file] == nil {
			certificates, err := readCertificates([]string{file})
			if err != nil {
				return nil, err
			}
			c[file] = certificates
		}
		all = append(all, c[file]...)
	}
	return all, nil
}
