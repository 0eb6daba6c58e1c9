package main

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os"
	"time"
)

// primitivesRepeats is how often each primitive is measured in one turn: some tens
// of milliseconds.
const primitivesRepeats = 300

// primitives is the CPU time in microseconds of the operations on P-256 that no
// server can do without in an enrolment: it makes a key, derives the secret, signs
// its key exchange, and verifies the device's proof of possession and the signature
// on its leaf. That of the factory's certificate has been verified before.
func primitives() (float64, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, err
	}
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return 0, err
	}
	digest := sha256.Sum256([]byte("what is signed"))
	begun := cpuOf(os.Getpid())
	for range primitivesRepeats {
		own, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			return 0, err
		}
		if _, err := own.ECDH(peer.PublicKey()); err != nil {
			return 0, err
		}
		signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		if err != nil {
			return 0, err
		}
		for range 2 {
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
				return 0, errors.New("a signature does not verify")
			}
		}
	}
	return microseconds(cpuOf(os.Getpid())-begun) / primitivesRepeats, nil
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
