package dtls12

import (
	"bytes"
	"testing"
)

// recordOf returns a record with a body of so many octets.
func recordOf(kind, epoch byte, octets int) []byte {
	return append([]byte{kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, 1, byte(octets >> 8), byte(octets)}, bytes.Repeat([]byte{1}, octets)...)
}

// TestRecordsAfterTheHandshake has a wire take from a peer whose handshake is over
// what can still be of use, and a few messages of the handshake.
func TestRecordsAfterTheHandshake(t *testing.T) {
	w := new(wire)
	w.passing.Store(true)
	const finished = 48
	for name, tt := range map[string]struct {
		record []byte
		want   bool
	}{
		"data":                   {recordOf(23, 1, 500), true},
		"alert":                  {recordOf(21, 1, 20), true},
		"Finished":               {recordOf(recordHandshake, 1, finished), true},
		"a larger message":       {recordOf(recordHandshake, 1, 500), false},
		"an unprotected message": {recordOf(recordHandshake, 0, finished), false},
		"an unprotected change":  {recordOf(recordChange, 0, 1), false},
	} {
		if n := w.withoutForged(bytes.Clone(tt.record)); (n > 0) != tt.want {
			t.Errorf("%s: %d octets are let through", name, n)
		}
	}
	through := 0
	for range 10 * maxRepeats {
		through += w.withoutForged(recordOf(recordHandshake, 1, finished))
	}
	if bound := maxRepeats * (recordHeader + finished); through > bound {
		t.Errorf("%d octets of repeated messages are let through", through)
	}
	if w.withoutForged(recordOf(23, 1, 10)) == 0 {
		t.Error("after many messages of a handshake, data is dropped")
	}
}
