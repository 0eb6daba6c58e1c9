package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"muster"
	"muster/cert"
	"muster/enrolee/keyring"
	"muster/mef"
	"muster/seal"
)

// A laboratory is a folder with all that the three parties need on one machine:
// two authorities, configurations, identities, and stores with their root keys.
type laboratory struct {
	Dir     string
	Devices int
	now     time.Time

	grouped          bool           // one instruction is for all that the factory makes
	factory          *authority     // once written
	credential       credentialKind // of the devices; zero is a certificate
	mefPort, mafPort uint16         // each TCP and UDP; zero for those of a laboratory
	adminPort        uint16         // of the MEF's operators, that of the MAF's being one above; zero for none
}

// Names and addresses of a laboratory.
const (
	labMEF       = "mef.lab.example"
	labMAF       = "maf.lab.example"
	labAdmin     = "admin.lab.example"
	labOperator  = "operator.lab.example"
	labMEFPort   = uint16(7443) // TCP and UDP
	labMAFPort   = uint16(7684) // TCP and UDP
	labAdminPort = uint16(7445)
	labValidity  = 365 * 24 * time.Hour
)

// maxLabDevices bounds how many devices init makes, each with its key and files.
const maxLabDevices = 100_000

const mefTemplate = `# A MEF for the laboratory. Paths are relative to this file.
fqdn: {{.MEF}}
identity: {certificate: pki/mef.pem, key: pki/mef-key.pem}
listen: {tls: "127.0.0.1:{{.MEFPort}}", dtls: "127.0.0.1:{{.MEFPort}}"}
store: {path: mef.db, root_key: mef.root-key}
status: {mode: soft, crls: [pki/operator-root-crl.pem, pki/device-root-crl.pem, pki/factory-crl.pem]}
administrators: [{{.Admin}}]
{{- if .AdminPort}}
audit: {file: mef.audit}
admin:
  listen: "127.0.0.1:{{.AdminPort}}"
  rules: mef.rules
  clients:
    - {certificate: {flavour: fqdn, name: {{.Operator}}}, anchors: [pki/operator-root.pem], role: admin}
{{- end}}
mafs:
  - {fqdn: {{.MAF}}, anchors: [pki/operator-root.pem]}
instructions:
{{- if .Grouped}}
  - certificate: {flavour: device, pattern: "0.2.481.1/100.*"}
    anchors: [pki/device-root.pem]
    template: //sp.lab.example/{model}-{serial}
    targets: [{{.MAF}}]
    lifetime: 24h
{{- else}}{{range .Devices}}
{{- if $.PSK}}
  - kpm_ids: [{{.KpmID}}]
{{- else}}
  - certificate: {flavour: device, name: {{.Name}}}
    anchors: [pki/device-root.pem]
{{- end}}
    enrolee_id: {{.ID}}
    targets: [{{$.MAF}}]
    lifetime: 24h
{{- end}}{{end}}
`

const mafTemplate = `# A MAF for the laboratory. Paths are relative to this file.
fqdn: {{.MAF}}
identity: {certificate: pki/maf.pem, key: pki/maf-key.pem}
listen: {tls: "127.0.0.1:{{.MAFPort}}", dtls: "127.0.0.1:{{.MAFPort}}"}
store: {path: maf.db, root_key: maf.root-key}
status: {mode: hard, crls: [pki/operator-root-crl.pem]}
administrators: [{{.Admin}}]
{{- if .AdminPort}}
audit: {file: maf.audit}
admin:
  listen: "127.0.0.1:{{.MAFAdminPort}}"
  clients:
    - {certificate: {flavour: fqdn, name: {{.Operator}}}, anchors: [pki/operator-root.pem], role: admin}
{{- end}}
mefs:
  - {fqdn: {{.MEF}}, address: "127.0.0.1:{{.MEFPort}}", anchors: [pki/operator-root.pem]}
`

const deviceTemplate = `# One device of the laboratory. Paths are relative to this file.
enrolee_id: {{.Device.ID}}
{{if .PSK -}}
kpm: {id: {{.Device.KpmID}}, path: {{.Device.File}}.kpm, root_key: {{.Device.File}}.root-key}
{{- else -}}
identity: {certificate: pki/{{.Device.File}}.pem, key: pki/{{.Device.File}}-key.pem}
{{- end}}
mef: {fqdn: {{.MEF}}, address: "127.0.0.1:{{.MEFPort}}", transport: tls, anchors: [pki/operator-root.pem]}
maf: {fqdn: {{.MAF}}, address: "127.0.0.1:{{.MAFPort}}", transport: dtls}
admin_fqdn: {{.Admin}}
credentials: {path: {{.Device.File}}.credentials, root_key: {{.Device.File}}.root-key}
`

const operatorTemplate = `# The operator of {{.Operated.FQDN}} in the laboratory, for muster admin. Paths are relative to this file.
server: https://127.0.0.1:{{.Operated.Port}}
server_name: {{.Operated.FQDN}}
ca: pki/operator-root.pem
certificate: pki/operator.pem
key: pki/operator-key.pem
`

// A labFunction is a function as its operator knows it.
type labFunction struct {
	File, FQDN string
	Port       uint16
}

// A labDevice is a device as the templates know it.
type labDevice struct{ File, ID, Name, KpmID string }

type labNames struct {
	MEF, MAF, Admin  string
	Operator         string
	AdminPort        uint16
	MAFAdminPort     uint16
	Operated         labFunction
	PSK, Grouped     bool
	MEFPort, MAFPort uint16
	Devices          []labDevice
	Device           labDevice
}

func (l *laboratory) names() labNames {
	names := labNames{MEF: labMEF, MAF: labMAF, Admin: labAdmin, Operator: labOperator, AdminPort: l.adminPort, MAFAdminPort: l.adminPort + 1, MEFPort: l.mefPort, MAFPort: l.mafPort, PSK: l.credential == byKey, Grouped: l.grouped}
	orDefault(&names.MEFPort, labMEFPort)
	orDefault(&names.MAFPort, labMAFPort)
	for n := range l.Devices {
		names.Devices = append(names.Devices, labDevice{
			File: l.deviceFile(n),
			ID:   fmt.Sprintf("//sp.lab.example/%s", l.deviceFile(n)),
			Name: fmt.Sprintf("0.2.481.1/100.3030.%d", n+1), KpmID: l.deviceFile(n) + "@" + labMEF,
		})
	}
	return names
}

func (l *laboratory) deviceFile(n int) string { return fmt.Sprintf("device-%04d", n+1) }

func (l *laboratory) path(elements ...string) string {
	return filepath.Join(append([]string{l.Dir}, elements...)...)
}

// write makes the laboratory. The folder must not exist, or be empty.
func (l *laboratory) write() error {
	if entries, err := os.ReadDir(l.Dir); err == nil && len(entries) > 0 {
		return configErrorf("%s is not empty; init writes into a folder of its own", l.Dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return configErrorf("%v", err)
	}
	if err := os.MkdirAll(l.path("pki"), 0o700); err != nil {
		return configErrorf("%v", err)
	}
	names := l.names()
	if err := l.writePKI(names); err != nil {
		return err
	}
	for _, function := range []string{"mef", "maf"} {
		if err := l.writeStore(function); err != nil {
			return err
		}
	}
	if err := l.render("mef.yaml", mefTemplate, names); err != nil {
		return err
	}
	if err := l.render("maf.yaml", mafTemplate, names); err != nil {
		return err
	}
	if err := l.writeOperators(names); err != nil {
		return err
	}
	for _, names.Device = range names.Devices {
		if err := l.render(names.Device.File+".yaml", deviceTemplate, names); err != nil {
			return err
		}
		if err := seal.CreateRoot(l.path(names.Device.File+".root-key"), rand.Reader); err != nil {
			return err
		}
	}
	if names.PSK {
		return l.writeKpms(names)
	}
	return nil
}

// writeOperators writes the configurations of who operates the functions, if anybody does.
func (l *laboratory) writeOperators(names labNames) error {
	if names.AdminPort == 0 {
		return nil
	}
	for _, names.Operated = range []labFunction{{"mef", names.MEF, names.AdminPort}, {"maf", names.MAF, names.MAFAdminPort}} {
		if err := l.render(names.Operated.File+"-operator.yaml", operatorTemplate, names); err != nil {
			return err
		}
	}
	return nil
}

// writeKpms draws a key for each device, and seals it in the device's file and in
// the MEF's store.
func (l *laboratory) writeKpms(names labNames) error {
	var keys []listedKpm
	for _, device := range names.Devices {
		id, err := muster.ParseKpmID(device.KpmID)
		if err != nil {
			return err
		}
		octets := make([]byte, muster.KeySize)
		_, _ = rand.Read(octets) // it ends the program rather than fail
		kpm, err := muster.NewKpm(octets)
		clear(octets)
		if err != nil {
			return err
		}
		if err := keyring.WriteKpm(l.path(device.File+".kpm"), l.path(device.File+".root-key"), id, kpm); err != nil {
			return err
		}
		keys = append(keys, listedKpm{id, kpm, device.File})
	}
	config, err := readMEFConfig(l.path("mef.yaml"))
	if err != nil {
		return err
	}
	_, err = importKpms(context.Background(), config, keys, mef.Import{})
	return err
}

func (l *laboratory) writeStore(function string) error {
	rootKey := l.path(function + ".root-key")
	if err := seal.CreateRoot(rootKey, rand.Reader); err != nil {
		return err
	}
	return createStore(context.Background(), storeConfig{Path: l.path(function + ".db"), RootKey: rootKey})
}

func (l *laboratory) render(file, text string, names labNames) error {
	var out strings.Builder
	if err := template.Must(template.New(file).Parse(text)).Execute(&out, names); err != nil {
		return err
	}
	return os.WriteFile(l.path(file), []byte(out.String()), 0o600)
}

func (l *laboratory) writePKI(names labNames) error {
	validity := cert.Validity{NotBefore: l.now.Add(-time.Hour), NotAfter: l.now.Add(labValidity)}
	operator, err := newLabRoot("Laboratory operator root", validity)
	if err != nil {
		return err
	}
	devices, err := newLabRoot("Laboratory device root", validity)
	if err != nil {
		return err
	}
	factory, err := newLabIntermediate(devices, "Laboratory factory", validity)
	if err != nil {
		return err
	}
	l.factory = factory
	if err := errors.Join(
		writeCertificates(l.path("pki", "operator-root.pem"), operator.certificate),
		writeCertificates(l.path("pki", "device-root.pem"), devices.certificate),
		l.writeLeaf(operator, "mef", validity, muster.FlavourFQDN, names.MEF, cert.UsageServer),
		l.writeLeaf(operator, "maf", validity, muster.FlavourFQDN, names.MAF, cert.UsageServer, cert.UsageClient),
		l.writeLeaf(operator, "operator", validity, muster.FlavourFQDN, names.Operator, cert.UsageClient),
		l.writeCRL(operator, "operator-root", validity),
		l.writeCRL(devices, "device-root", validity),
		l.writeCRL(factory, "factory", validity),
	); err != nil {
		return err
	}
	if names.PSK {
		return nil
	}
	for _, device := range names.Devices {
		if err := l.writeLeaf(factory, device.File, validity, muster.FlavourDevice, device.Name, cert.UsageClient); err != nil {
			return err
		}
	}
	return nil
}

// writeCRL writes a list that revokes nothing, good for as long as the authority.
func (l *laboratory) writeCRL(issuer *authority, file string, validity cert.Validity) error {
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: validity.NotBefore, NextUpdate: validity.NotAfter}
	der, err := x509.CreateRevocationList(rand.Reader, list, issuer.certificate, issuer.key)
	if err != nil {
		return err
	}
	return os.WriteFile(l.path("pki", file+"-crl.pem"), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o644)
}

func newLabRoot(name string, validity cert.Validity) (*authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	return newRoot(name, validity, key)
}

func newLabIntermediate(issuer *authority, name string, validity cert.Validity) (*authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template, err := cert.IntermediateTemplate(rand.Reader, name, validity, cert.Constraints{})
	if err != nil {
		return nil, err
	}
	return issuer.certify(template, key)
}

// writeLeaf writes the certificate with its intermediates, and the key.
func (l *laboratory) writeLeaf(issuer *authority, file string, validity cert.Validity, flavour muster.Flavour, text string, usages ...cert.Usage) error {
	name, err := cert.ParseName(flavour, text)
	if err != nil {
		return err
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	template, err := cert.LeafTemplate(rand.Reader, file, validity, []muster.CertName{name}, usages...)
	if err != nil {
		return err
	}
	leaf, err := issuer.issue(template, key.Public())
	if err != nil {
		return err
	}
	encoded, err := encodeKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		writeCertificates(l.path("pki", file+".pem"), append([]*x509.Certificate{leaf}, issuer.chain...)...),
		os.WriteFile(l.path("pki", file+"-key.pem"), encoded, 0o600),
	)
}
