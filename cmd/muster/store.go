package main

import (
	"context"
	"crypto/rand"
	"time"

	"muster/maf"
	"muster/mef"
	"muster/seal"
	"muster/sqlite"
	"muster/tef"
)

// mefStore and mafStore are what the functions need of a store.
type (
	mefStore interface {
		mef.Store
		tef.Store
		tef.KeyStore
		tef.CommandStore
	}
	mafStore interface {
		maf.Store
		tef.Store
		tef.KeyStore
	}
)

// What a function grants its clients, and tells those that ask for commands.
const (
	maxKeys       = 256
	retryDuration = 24 * time.Hour
)

func newSealer(rootKey string) (*seal.Sealer, error) {
	root, err := seal.ReadRoot(rootKey)
	if err != nil {
		return nil, configErrorf("store: %w", err)
	}
	return seal.New(root, rand.Reader), nil
}

// createStore makes the database, which nothing else does.
func createStore(config storeConfig) error {
	sealer, err := newSealer(config.RootKey)
	if err != nil {
		return err
	}
	if err := sqlite.Create(context.Background(), config.Path, sealer); err != nil {
		return configErrorf("store: %w", err)
	}
	return nil
}

func openStore(ctx context.Context, config storeConfig) (*sqlite.Store, error) {
	sealer, err := newSealer(config.RootKey)
	if err != nil {
		return nil, err
	}
	store, err := sqlite.Open(ctx, config.Path, sealer, sqlite.Options{})
	if err != nil {
		return nil, configErrorf("store: %s: %w", config.Path, err)
	}
	return store, nil
}
