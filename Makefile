# What is shipped, and what is measured.

# VERSION is that of the release, without v.
VERSION ?= 0.0.0

.PHONY: build manual completions bench

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

# The targets of docs/performance.md, on this machine.
bench: build
	dist/muster bench compare
