# What is shipped, all of it in dist, and what is measured.

# VERSION is that of the release, without v.
VERSION ?= 0.0.0
GOARCH != go env GOARCH
# SOURCE_DATE_EPOCH stands in the packages for every time, so that they are
# reproducible: seconds since 1970.
SOURCE_DATE_EPOCH ?= 1767225600
# MAINTAINER is whom the packages name: you, if you publish them.
MAINTAINER ?= Muster developers <muster@muster.invalid>
TOOLS = dist/tools

.PHONY: build manual completions packages sbom bench dist/changelog.yaml

# The same sources and the same Go give the same octets, in whatever folder.
build:
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.release=$(VERSION)" -o dist/muster ./cmd/muster

manual: build
	rm -rf dist/man
	dist/muster man dist/man
	gzip -9n dist/man/*.1

completions: build
	mkdir -p dist/completions
	dist/muster completion bash >dist/completions/muster
	dist/muster completion zsh >dist/completions/_muster
	dist/muster completion fish >dist/completions/muster.fish

# A changelog in the form of packages, which have one entry.
dist/changelog.yaml:
	mkdir -p dist
	printf -- '- {semver: %s-1, date: %s, packager: "%s", deb: {urgency: medium, distributions: [unstable]}, changes: [{note: "Version %s. changelog.gz beside this says what has changed."}]}\n' \
		'$(VERSION)' "$$(date -u -d @$(SOURCE_DATE_EPOCH) +%FT%TZ)" '$(MAINTAINER)' '$(VERSION)' >$@

packages: manual completions dist/changelog.yaml $(TOOLS)/nfpm
	gzip -9nc CHANGELOG.md >dist/changelog.gz
	rm -f dist/*.deb dist/*.rpm
	for packager in deb rpm; do \
		VERSION=$(VERSION) MAINTAINER='$(MAINTAINER)' GOARCH=$(GOARCH) SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(TOOLS)/nfpm package --config deploy/package/nfpm.yaml --packager $$packager --target dist/ || exit 1; \
	done

# The modules that are in the program, and no others.
sbom: build $(TOOLS)/cyclonedx-gomod
	$(TOOLS)/cyclonedx-gomod bin -json -licenses -std -noserial -version $(VERSION) -output dist/muster.cdx.json dist/muster

$(TOOLS)/nfpm $(TOOLS)/cyclonedx-gomod: deploy/tools/go.sum
	GOBIN=$(CURDIR)/$(TOOLS) go -C deploy/tools install tool

# The targets of docs/performance.md, on this machine.
bench: build
	dist/muster bench compare
