// Package audit keeps an append-only log of the acts on which security depends:
// who did what to which Enrolee, under which rule, and what came of it. Each entry
// carries the SHA-256 of the entry before it and of its own text, so that Verify
// finds an entry that was changed, removed or put in. That the last entries were
// cut off shows against a Head that was kept elsewhere, as with a syslog server.
//
// No entry has a field for a secret.
package audit
