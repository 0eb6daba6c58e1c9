//go:build race

package mustertest

const raceEnabled = true
