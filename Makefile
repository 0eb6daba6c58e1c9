# What is shipped.

.PHONY: build

# The same sources and the same Go give the same octets, in whatever folder.
build:
	CGO_ENABLED=0 go build -trimpath -ldflags=-buildid= -o dist/muster ./cmd/muster
