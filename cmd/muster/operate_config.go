package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"muster"
	"muster/cert"
	"muster/seal"
)

// The environment of operators. A token never stands on a command line, which
// others on the machine can read.
const (
	operatorConfigVariable = "MUSTER_ADMIN_CONFIG"
	operatorTokenVariable  = "MUSTER_TOKEN"
)

// An operatorConfig is the file that muster admin reads. Each key has a flag, which
// goes before it.
type operatorConfig struct {
	// Server is where the function answers operators, as https://HOST:PORT.
	Server string `yaml:"server"`
	// ServerName is the FQDN in the server's certificate; the host of server by default.
	ServerName muster.FQDN `yaml:"server_name"`
	// CA is the PEM file of the roots under which that name is meant.
	CA string `yaml:"ca"`
	// Certificate is the PEM file of the operator's own certificate, with its intermediates.
	Certificate string `yaml:"certificate"`
	// Key is the PEM file of its private key.
	Key string `yaml:"key"`
	// TokenFile has a token in place of a certificate; only its owner may be able to read it.
	TokenFile string `yaml:"token_file"`
	// Profile is onem2m (the default), onem2m-constrained or rfc5280: how strict the server's certificate is judged.
	Profile cert.Profile `yaml:"profile"`
	// Timeout is the time for one request; 30s by default. A request that can be repeated without harm is sent up to four times.
	Timeout time.Duration `yaml:"timeout"`
}

// flags adds the flags of a configuration, of which given has the values.
func (c *operatorConfig) flags(flags *pflag.FlagSet) {
	flags.StringVar(&c.Server, "server", "", "the function's address for operators, as https://HOST:PORT (`URL`)")
	flags.TextVar(&c.ServerName, "server-name", muster.FQDN{}, "the `FQDN` in the server's certificate, if it is not HOST")
	flags.StringVar(&c.CA, "ca", "", "the roots of the server's certificate, a PEM `FILE`")
	flags.StringVar(&c.Certificate, "cert", "", "the operator's certificate, a PEM `FILE`")
	flags.StringVar(&c.Key, "key", "", "the private key of --cert, a PEM `FILE`")
	flags.StringVar(&c.TokenFile, "token-file", "", "a `FILE` with a token, in place of --cert; or else the variable "+operatorTokenVariable)
	flags.DurationVar(&c.Timeout, "timeout", 0, "the time for one request (default 30s)")
}

// readOperatorConfig returns the configuration of a file, or of none, with what the
// command line says otherwise.
func readOperatorConfig(path string, given operatorConfig) (*operatorConfig, error) {
	c := new(operatorConfig)
	if path != "" {
		if err := readYAML(path, c); err != nil {
			return nil, err
		}
		resolve(path, &c.CA, &c.Certificate, &c.Key, &c.TokenFile)
		if c.Certificate != "" && c.TokenFile != "" {
			return nil, configErrorf("%s: it has both a certificate and a token_file", path)
		}
	}
	if given.Certificate+given.Key+given.TokenFile != "" {
		if given.TokenFile != "" && given.Certificate+given.Key != "" {
			return nil, muster.Refuse(muster.CodeUsage, "an operator has either --cert with --key or --token-file")
		}
		c.Certificate, c.Key, c.TokenFile = given.Certificate, given.Key, given.TokenFile
	}
	override(&c.Server, given.Server)
	override(&c.ServerName, given.ServerName)
	override(&c.CA, given.CA)
	override(&c.Timeout, given.Timeout)
	orDefault(&c.Timeout, 30*time.Second)
	return c, nil
}

// override replaces a value by another that is not zero.
func override[T comparable](v *T, other T) {
	var zero T
	if other != zero {
		*v = other
	}
}

// connect returns a client. Nothing is sent yet. The token of the environment goes
// before what the file says, but not before what the command line says.
func (c *operatorConfig) connect(environment string) (*operatorClient, error) {
	base, trust, err := c.server()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: trust.Name.Text,
		InsecureSkipVerify: true, // VerifyConnection judges, as every certificate is judged here
		VerifyConnection: func(s tls.ConnectionState) error {
			_, findings := cert.Verify(s.PeerCertificates, trust, time.Now())
			return findings.Err()
		},
	}
	client := &operatorClient{base: base, timeout: c.Timeout, token: strings.TrimSpace(environment)}
	switch {
	case client.token != "":
	case c.TokenFile != "":
		octets, err := seal.ReadSecret(c.TokenFile, maxTokenFile)
		if err != nil {
			return nil, configErrorf("the token file: %w", err)
		}
		client.token = strings.TrimSpace(string(octets))
	case c.Certificate != "" && c.Key != "":
		identity, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		if err != nil {
			return nil, configErrorf("the operator's certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{identity}
	default:
		return nil, muster.Refuse(muster.CodeUsage, "who is asking? --cert with --key, --token-file, %s or a configuration says so", operatorTokenVariable)
	}
	if strings.ContainsAny(client.token, " \t\r\n") || len(client.token) > maxTokenFile {
		return nil, configErrorf("the token is malformed")
	}
	client.transport = &http.Transport{
		TLSClientConfig: config, ForceAttemptHTTP2: true, DisableCompression: true,
		DialContext:            (&net.Dialer{Timeout: min(c.Timeout, 10*time.Second)}).DialContext,
		TLSHandshakeTimeout:    min(c.Timeout, 10*time.Second),
		MaxResponseHeaderBytes: maxAnswerHeader,
	}
	return client, nil
}

// server returns where the server is, and whom it has to be.
func (c *operatorConfig) server() (base *url.URL, trust cert.Trust, err error) {
	if c.Server == "" || c.CA == "" {
		return nil, trust, muster.Refuse(muster.CodeUsage, "which function? --server and --ca, or the configuration in --config or %s, say so", operatorConfigVariable)
	}
	base, err = url.Parse(c.Server)
	if err != nil || base.Scheme != "https" || base.Host == "" || strings.Trim(base.Path, "/")+base.RawQuery+base.Fragment != "" || base.User != nil {
		return nil, trust, configErrorf("the server is not as https://HOST:PORT")
	}
	base.Path = ""
	name := c.ServerName
	if name.IsZero() {
		if name, err = muster.ParseFQDN(base.Hostname()); err != nil || net.ParseIP(base.Hostname()) != nil {
			return nil, trust, configErrorf("%s is not a name that a certificate could have: --server-name, or server_name, says which it has", base.Hostname())
		}
	}
	anchors, err := readCertificates([]string{c.CA})
	if err != nil {
		return nil, trust, err
	}
	text, err := cert.ParseName(muster.FlavourFQDN, name.String())
	return base, cert.Trust{Name: text, Anchors: anchors, Usage: cert.UsageServer, Profile: c.Profile}, err
}

// configPath returns the file that the command line or the environment names.
func configPath(given string) string {
	if given == "" {
		return os.Getenv(operatorConfigVariable)
	}
	return given
}
