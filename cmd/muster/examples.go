package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// examples are command lines to begin with, by the path of the command; --help and
// the manual pages show them.
var examples = map[string][]string{
	"muster demo":              {"muster demo --devices 5 --transport dtls"},
	"muster init":              {"muster init lab --devices 3"},
	"muster mef":               {"muster mef --config lab/mef.yaml"},
	"muster maf":               {"muster maf --config lab/maf.yaml"},
	"muster enrol":             {"muster enrol --config lab/device-0001.yaml --wait 10s", "muster enrol --config lab/device-0001.yaml --renew --json"},
	"muster config check":      {"muster config check lab/mef.yaml lab/maf.yaml lab/device-0001.yaml"},
	"muster explain":           {"muster explain --config lab/mef.yaml --cert lab/pki/device-0001.pem --time 2030-01-01T00:00:00Z", "muster explain --config lab/mef.yaml --refusal 00c0ffee"},
	"muster refusals":          {"muster refusals --config lab/mef.yaml --last 20", "muster refusals --config lab/mef.yaml --json"},
	"muster audit prune":       {"muster audit prune --config /etc/muster/mef.yaml --before 2026-01-31"},
	"muster audit verify":      {"muster audit verify /var/lib/muster-mef/audit.log", "muster audit verify --config /etc/muster/mef.yaml"},
	"muster kpm import":        {"muster kpm import --config lab/mef.yaml --dry-run keys.csv", "muster kpm import --config lab/mef.yaml keys.csv"},
	"muster kpm seal":          {"muster kpm seal --config lab/device-0001.yaml keys.csv"},
	"muster bench":             {"muster bench --operation re-attachment --transport dtls", "muster bench --rate 200 --duration 10s --json"},
	"muster bench compare":     {"muster bench compare", "muster bench compare --transport tls --rounds 3 --profiles /tmp --json"},
	"muster man":               {"muster man /usr/local/share/man/man1"},
	"muster version":           {"muster version --json"},
	"muster command list":      {"muster command list --config lab/mef.yaml --admin admin.lab.example --enrolee //sp.lab.example/device-0001"},
	"muster command queue":     {"muster command queue --config lab/mef.yaml --admin admin.lab.example --enrolee //sp.lab.example/device-0001 --id renew-1 certificate est https://est.example node 0.2.481.1.100", "muster command queue --config lab/mef.yaml --admin admin.lab.example --group //sp.lab.example/ --id configure-1 device https://dm.example"},
	"muster store create":      {"muster store create --config lab/mef.yaml --new-root-key"},
	"muster store migrate":     {"muster store migrate --config mef.yaml", "muster store migrate --back --config mef.yaml"},
	"muster store copy":        {"muster store copy --config lab/mef.yaml --to lab/mef-postgres.yaml"},
	"muster store withdraw":    {"muster store withdraw --config mef.yaml"},
	"muster store export":      {"muster store export --config lab/mef.yaml mef.archive"},
	"muster store import":      {"muster store import --config lab/mef.yaml mef.archive"},
	"muster store check":       {"muster store check --config lab/mef.yaml", "muster store check --config lab/mef.yaml --file mef.backup"},
	"muster store backup":      {"muster store backup --config lab/mef.yaml mef.backup"},
	"muster store restore":     {"muster store restore --config lab/mef.yaml mef.backup", "muster store restore --config lab/mef.yaml --later lab/mef.db.damaged mef.backup"},
	"muster store rotate-root": {"muster store rotate-root --config lab/mef.yaml"},
	"muster pki root":          {`muster pki root factory --common-name "My Factory"`},
	"muster pki intermediate":  {"muster pki intermediate line-1 --issuer factory --permit-device 0.2.481.1/100"},
	"muster pki leaf":          {"muster pki leaf --issuer line-1 --flavour device --name 0.2.481.1/100.4040.1 --out own", "muster pki leaf --issuer operator --flavour fqdn --name mef.example.com --usage server --out mef"},
	"muster pki csr":           {"muster pki csr --flavour fqdn --name mef.example.com --out mef"},
	"muster pki sign":          {"muster pki sign --issuer operator --csr mef.csr --flavour fqdn --name mef.example.com --out mef.pem"},
	"muster pki crl":           {"muster pki crl factory --hours 24"},
	"muster pki revoke":        {"muster pki revoke factory --cert own.pem --reason keyCompromise"},
	"muster pki ocsp":          {"muster pki ocsp factory --listen 127.0.0.1:8889"},
	"muster pki lint":          {"muster pki lint --flavour device --anchor factory/certificate.pem own.pem"},
	"muster store rotate-data-key": {
		"muster store rotate-data-key --config lab/mef.yaml",
	},

	"muster admin whoami":        {"muster admin whoami --server https://mef.example.com:7445 --ca root.pem --cert operator.pem --key operator-key.pem"},
	"muster admin overview":      {"muster admin overview --config lab/mef-operator.yaml"},
	"muster admin list":          {"muster admin list enrolments --enrolee //sp.example/line-1", "muster admin list instructions --all --json"},
	"muster admin show":          {"muster admin show instruction 2c5ea4c0b2a1d3e4f5061728394a5b6c", "muster admin show refusal 00c0ffee0001"},
	"muster admin create":        {"muster admin create instruction --flavour device --name 0.2.481.1/100.4040.1 --anchor factory.pem --enrolee //sp.example/pump-1 --target maf.example.com", "muster admin create instruction -f pump-1.yaml"},
	"muster admin replace":       {"muster admin replace instruction 2c5ea4c0b2a1d3e4f5061728394a5b6c --target maf.example.com --lifetime 48h"},
	"muster admin delete":        {"muster admin delete instruction 2c5ea4c0b2a1d3e4f5061728394a5b6c"},
	"muster admin anchor add":    {"muster admin anchor add factory.pem"},
	"muster admin import":        {"muster admin import --dry-run pumps.csv", "muster admin import --batch 1000 pumps.jsonl"},
	"muster admin ban":           {`muster admin ban --enrolee //sp.example/pump-1 --reason "stolen"`},
	"muster admin evict":         {`muster admin evict --name device:0.2.481.1/100.4040.1 --before 2026-01-31T12:00:00Z --reason "sold"`},
	"muster admin suspend":       {`muster admin suspend --enrolee //sp.example/pump-1 --reason "under repair"`},
	"muster admin lift":          {"muster admin lift 9b1c2d3e4f5061728394a5b6c7d8e9f0"},
	"muster admin explain":       {"muster admin explain 00c0ffee0001"},
	"muster admin watch":         {"muster admin watch", "muster admin watch --since 1200 --json"},
	"muster admin audit list":    {"muster admin audit list --all --json"},
	"muster admin audit verify":  {"muster admin audit verify --head 12:3ac7b5a1f5d9f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7081920"},
	"muster admin command list":  {"muster admin command list --admin admin.example.com --enrolee //sp.example/pump-1"},
	"muster admin command queue": {"muster admin command queue --admin admin.example.com --group //sp.example/ --id configure-1 device https://dm.example"},
	"muster admin reload":        {"muster admin reload"},
	"muster admin token":         {"muster admin token --role viewer --lifetime 10m --output token"},
	"muster admin sign-in":       {"muster admin sign-in --role viewer"},
}

// addExamples gives the commands below cmd their examples.
func addExamples(cmd *cobra.Command) {
	if lines := examples[cmd.CommandPath()]; lines != nil {
		cmd.Example = "  " + strings.Join(lines, "\n  ")
	}
	for _, below := range cmd.Commands() {
		addExamples(below)
	}
}
