package archive

import (
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"muster"
)

// A Record is a row of one of the Tables.
type Record interface {
	// Table is the name of the record's table.
	Table() string
	// Fields points at what stands in the table's columns, in their order, to be
	// read or written.
	Fields() []any

	key() string
	// open checks the record's identifiers, and that its key, if it has one, opens
	// for it alone.
	open(Opener) (sealed bool, err error)
}

// A Table is what a store of each engine has, under the same name and with the
// same columns. The column targets, a list, is a table of its own in SQLite.
type Table struct {
	Name    string
	Columns []string // as Record.Fields has them
	Order   string   // of records in an archive, as ORDER BY wants it
	New     func() Record

	unique bool // no two records have the same key
}

var tables = []Table{
	{"data_key", []string{"id", "wrapped", "created", "seals"}, "id", func() Record { return new(DataKey) }, true},
	{"enrolment", []string{"ke_id", "maf_id", "enrolee_id", "generation", "session", "certificate", "data_key", "sealed", "state",
		"created", "expires", "fetched_at", "fetches"}, "ke_id, maf_id", func() Record { return new(Enrolment) }, true},
	{"credential", []string{"ke_id", "km_id", "enrolee_id", "generation", "maf_id", "data_key", "sealed", "state", "created", "expires",
		"ke_id_until"}, "ke_id", func() Record { return new(Credential) }, true},
	{"registration", []string{"function", "id", "client_id", "admin_fqdn", "labels", "km_id", "created", "modified", "expires"},
		"function, id", func() Record { return new(Registration) }, true},
	{"key_registration", []string{"key_id", "source_id", "admin_fqdn", "usage", "labels", "targets", "data_key", "sealed", "state",
		"created", "modified", "expires", "latest", "fetches", "fetched_at"}, "key_id", func() Record { return new(KeyRegistration) }, true},
	// A command's place among those of its registration is that in the archive.
	{"command", []string{"function", "registration", "cmd_id", "description", "status", "created", "changed"},
		"function, registration, position", func() Record { return new(Command) }, false},
	{"kpm", []string{"kpm_id", "enrolee_id", "generation", "data_key", "sealed", "state", "created", "until"},
		"kpm_id", func() Record { return new(Kpm) }, true},
	{auditPrefix + "anchor", []string{"log", "seq", "hash", "pruned"}, "log, seq", func() Record { return new(AuditAnchor) }, true},
	{auditPrefix + "entry", []string{"log", "seq", "line"}, "log, seq", func() Record { return new(AuditEntry) }, true},
}

const auditPrefix = "audit_"

// Ends reports whether records of the table end: those of audit logs do not, and a
// later store has nothing to say of them.
func (t Table) Ends() bool { return !strings.HasPrefix(t.Name, auditPrefix) }

// Tables returns what a store holds, in the order of an archive.
func Tables() []Table { return append([]Table(nil), tables...) }

// A KeID is a KeID or the identifier of a registered key as the tables have it: 16
// octets and the function's FQDN in ASCII. In an archive it has the form of the wire.
type KeID []byte

// KeIDOctets returns a KeID as the tables have it.
func KeIDOctets(id muster.KeID) []byte {
	relative := id.Relative()
	return append(relative[:], id.MEF().String()...)
}

// KeIDFrom is the reverse of KeIDOctets.
func KeIDFrom(octets []byte) (muster.KeID, error) {
	if len(octets) < muster.RelativeSize {
		return muster.KeID{}, fmt.Errorf("a KeID in the database has %d octets", len(octets))
	}
	issuer, err := muster.ParseFQDN(string(octets[muster.RelativeSize:]))
	if err != nil {
		return muster.KeID{}, err
	}
	return muster.NewKeID([muster.RelativeSize]byte(octets), issuer), nil
}

// MarshalText returns the form of the wire.
func (k KeID) MarshalText() ([]byte, error) {
	id, err := KeIDFrom(k)
	if err != nil {
		return nil, err
	}
	return id.MarshalText()
}

// UnmarshalText reads the form of the wire.
func (k *KeID) UnmarshalText(text []byte) error {
	id, err := muster.ParseKeID(string(text))
	*k = KeIDOctets(id)
	return err
}

// A List is a list of texts, which the tables have as text in JSON.
type List []string

// Scan implements sql.Scanner.
func (l *List) Scan(value any) error {
	text, ok := value.(string)
	if !ok {
		return fmt.Errorf("a list in the database is %T", value)
	}
	return json.Unmarshal([]byte(text), l)
}

// Value implements driver.Valuer. An empty list is null.
func (l List) Value() (driver.Value, error) {
	if len(l) == 0 {
		l = nil
	}
	text, err := json.Marshal([]string(l))
	return string(text), err
}

// A Sealed is a key that a data key seals: both members, or none if the key was
// erased, or is derived from another.
type Sealed struct {
	DataKey *uint32 `json:"data_key,omitempty"`
	Octets  []byte  `json:"sealed,omitempty"`
}

// open opens a sealed key and lets use see its octets, which are cleared then.
func (s Sealed) open(opener Opener, binding []string, use func(key []byte) error) (sealed bool, err error) {
	if s.DataKey == nil && s.Octets == nil {
		return false, nil
	}
	if s.DataKey == nil || s.Octets == nil {
		return false, fmt.Errorf("%s of %s is half erased", binding[0], binding[2])
	}
	key, err := opener.Open(*s.DataKey, s.Octets, binding...)
	if err != nil {
		return false, fmt.Errorf("%s of %s: %w", binding[0], binding[2], err)
	}
	defer clear(key)
	if err := use(key); err != nil {
		return false, fmt.Errorf("%s of %s: %w", binding[0], binding[2], err)
	}
	return true, nil
}

// A DataKey is a key under which the keys of records are sealed, wrapped by the
// root key.
type DataKey struct {
	ID      uint32 `json:"id"`
	Wrapped []byte `json:"wrapped"`
	Created int64  `json:"created"`
	Seals   int64  `json:"seals"` // how often it was used, at most
}

// Table implements Record.
func (*DataKey) Table() string { return "data_key" }

// Fields implements Record.
func (r *DataKey) Fields() []any { return []any{&r.ID, &r.Wrapped, &r.Created, &r.Seals} }

func (r *DataKey) key() string { return fmt.Sprintf("%010d", r.ID) }

func (r *DataKey) open(o Opener) (bool, error) { return false, o.UseDataKey(r.ID, r.Wrapped) }

// An Enrolment is the part of an enrolment that is for one MAF. The states of this
// and the next records are those of the databases.
type Enrolment struct {
	KeID        KeID   `json:"ke_id"`
	MAF         string `json:"maf_id"`
	Enrolee     string `json:"enrolee_id"`
	Generation  int64  `json:"generation"`
	Session     []byte `json:"session"`
	Certificate []byte `json:"certificate"`
	Sealed
	State     int    `json:"state"`
	Created   int64  `json:"created"`
	Expires   int64  `json:"expires"`
	FetchedAt *int64 `json:"fetched_at,omitempty"`
	Fetches   int64  `json:"fetches"`
}

// Table implements Record.
func (*Enrolment) Table() string { return "enrolment" }

// Fields implements Record.
func (r *Enrolment) Fields() []any {
	return []any{(*[]byte)(&r.KeID), &r.MAF, &r.Enrolee, &r.Generation, &r.Session, &r.Certificate, &r.DataKey, &r.Octets, &r.State,
		&r.Created, &r.Expires, &r.FetchedAt, &r.Fetches}
}

func (r *Enrolment) key() string { return string(r.KeID) + "\x00" + r.MAF }

func (r *Enrolment) open(o Opener) (bool, error) {
	id, err1 := KeIDFrom(r.KeID)
	maf, err2 := muster.ParseFQDN(r.MAF)
	enrolee, err3 := muster.ParseEnroleeID(r.Enrolee)
	if err := errors.Join(err1, err2, err3); err != nil {
		return false, err
	}
	if len(r.Session) != len(muster.Digest{}) || len(r.Certificate) != len(muster.Digest{}) {
		return false, fmt.Errorf("%s has a digest of another size", id)
	}
	return r.Sealed.open(o, BindKe(id, maf, enrolee, time.Unix(r.Expires, 0)), func(key []byte) error {
		_, err := muster.NewKe(key)
		return err
	})
}

// A Credential is a Master Credential of a MAF.
type Credential struct {
	KeID       KeID   `json:"ke_id"`
	KmID       string `json:"km_id"`
	Enrolee    string `json:"enrolee_id"`
	Generation int64  `json:"generation"`
	MAF        string `json:"maf_id"`
	Sealed
	State     int   `json:"state"`
	Created   int64 `json:"created"`
	Expires   int64 `json:"expires"`
	KeIDUntil int64 `json:"ke_id_until"`
}

// Table implements Record.
func (*Credential) Table() string { return "credential" }

// Fields implements Record.
func (r *Credential) Fields() []any {
	return []any{(*[]byte)(&r.KeID), &r.KmID, &r.Enrolee, &r.Generation, &r.MAF, &r.DataKey, &r.Octets, &r.State, &r.Created, &r.Expires,
		&r.KeIDUntil}
}

func (r *Credential) key() string { return string(r.KeID) }

func (r *Credential) open(o Opener) (bool, error) {
	keID, err1 := KeIDFrom(r.KeID)
	kmID, err2 := muster.ParseKmID(r.KmID)
	enrolee, err3 := muster.ParseEnroleeID(r.Enrolee)
	maf, err4 := muster.ParseFQDN(r.MAF)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return false, err
	}
	return r.Sealed.open(o, BindKm(maf, kmID, keID, enrolee, time.Unix(r.Expires, 0)), func(key []byte) error {
		_, err := muster.NewKm(key)
		return err
	})
}

// A Registration is that of a client at a function.
type Registration struct {
	Function string `json:"function"`
	ID       string `json:"id"`
	Client   string `json:"client_id"`
	Admin    string `json:"admin_fqdn"`
	Labels   List   `json:"labels,omitempty"`
	KmID     string `json:"km_id"`
	Created  int64  `json:"created"`
	Modified int64  `json:"modified"`
	Expires  int64  `json:"expires"`
}

// Table implements Record.
func (*Registration) Table() string { return "registration" }

// Fields implements Record.
func (r *Registration) Fields() []any {
	return []any{&r.Function, &r.ID, &r.Client, &r.Admin, &r.Labels, &r.KmID, &r.Created, &r.Modified, &r.Expires}
}

func (r *Registration) key() string { return r.Function + "\x00" + r.ID }

func (r *Registration) open(Opener) (bool, error) {
	_, err1 := muster.ParseFQDN(r.Function)
	_, err2 := muster.ParseEnroleeID(r.Client)
	var err3, err4 error
	if r.Admin != "" {
		_, err3 = muster.ParseFQDN(r.Admin)
	}
	if r.KmID != "" {
		_, err4 = muster.ParseKmID(r.KmID)
	}
	return false, errors.Join(err1, err2, err3, err4, areText(append(r.Labels, r.ID)...))
}

// A KeyRegistration is that of a key, with the key or without.
type KeyRegistration struct {
	KeyID   KeID     `json:"key_id"`
	Source  string   `json:"source_id"`
	Admin   string   `json:"admin_fqdn"`
	Usage   int      `json:"usage"`
	Labels  List     `json:"labels,omitempty"`
	Targets []string `json:"targets,omitempty"`
	Sealed
	State     int    `json:"state"`
	Created   int64  `json:"created"`
	Modified  int64  `json:"modified"`
	Expires   int64  `json:"expires"`
	Latest    *int64 `json:"latest,omitempty"`
	Fetches   int64  `json:"fetches"`
	FetchedAt *int64 `json:"fetched_at,omitempty"`
}

// Table implements Record.
func (*KeyRegistration) Table() string { return "key_registration" }

// Fields implements Record.
func (r *KeyRegistration) Fields() []any {
	return []any{(*[]byte)(&r.KeyID), &r.Source, &r.Admin, &r.Usage, &r.Labels, &r.Targets, &r.DataKey, &r.Octets, &r.State,
		&r.Created, &r.Modified, &r.Expires, &r.Latest, &r.Fetches, &r.FetchedAt}
}

func (r *KeyRegistration) key() string { return string(r.KeyID) }

func (r *KeyRegistration) open(o Opener) (bool, error) {
	id, err1 := KeIDFrom(r.KeyID)
	source, err2 := muster.ParseEnroleeID(r.Source)
	admin, err3 := muster.ParseFQDN(r.Admin)
	if err := errors.Join(err1, err2, err3, areText(append(r.Labels, r.Targets...)...)); err != nil {
		return false, err
	}
	var latest time.Time
	if r.Latest != nil {
		latest = time.Unix(*r.Latest, 0)
	}
	return r.Sealed.open(o, BindKey(id, source, admin, muster.SUID(r.Usage), latest), func(key []byte) error {
		_, err := muster.NewKc(key)
		return err
	})
}

// A Command is one that waits for a client, or was reported by it.
type Command struct {
	Function     string `json:"function"`
	Registration string `json:"registration"`
	ID           string `json:"cmd_id"`
	Description  string `json:"description"`
	Status       int    `json:"status"`
	Created      int64  `json:"created"`
	Changed      int64  `json:"changed"`
}

// Table implements Record.
func (*Command) Table() string { return "command" }

// Fields implements Record.
func (r *Command) Fields() []any {
	return []any{&r.Function, &r.Registration, &r.ID, &r.Description, &r.Status, &r.Created, &r.Changed}
}

func (r *Command) key() string { return r.Function + "\x00" + r.Registration }

func (r *Command) open(Opener) (bool, error) {
	_, err := muster.ParseFQDN(r.Function)
	return false, errors.Join(err, areText(r.Registration, r.ID, r.Description))
}

// A Kpm is a pre-provisioned symmetric key.
type Kpm struct {
	KpmID      string `json:"kpm_id"`
	Enrolee    string `json:"enrolee_id"`
	Generation int64  `json:"generation"`
	Sealed
	State   int    `json:"state"`
	Created int64  `json:"created"`
	Until   *int64 `json:"until,omitempty"`
}

// Table implements Record.
func (*Kpm) Table() string { return "kpm" }

// Fields implements Record.
func (r *Kpm) Fields() []any {
	return []any{&r.KpmID, &r.Enrolee, &r.Generation, &r.DataKey, &r.Octets, &r.State, &r.Created, &r.Until}
}

func (r *Kpm) key() string { return r.KpmID }

func (r *Kpm) open(o Opener) (bool, error) {
	id, err1 := muster.ParseKpmID(r.KpmID)
	enrolee, err2 := muster.ParseEnroleeID(r.Enrolee)
	if err := errors.Join(err1, err2); err != nil {
		return false, err
	}
	return r.Sealed.open(o, BindKpm(id, enrolee), func(key []byte) error {
		_, err := muster.NewKpm(key)
		return err
	})
}

// An AuditAnchor is where an audit log begins since it was pruned: after the entry with
// a number and a hash. Of several, the last counts.
type AuditAnchor struct {
	Log    string `json:"log"`
	Seq    int64  `json:"seq"`
	Hash   string `json:"hash"`
	Pruned int64  `json:"pruned"`
}

// Table implements Record.
func (*AuditAnchor) Table() string { return auditPrefix + "anchor" }

// Fields implements Record.
func (r *AuditAnchor) Fields() []any { return []any{&r.Log, &r.Seq, &r.Hash, &r.Pruned} }

func (r *AuditAnchor) key() string { return logKey(r.Log, r.Seq) }

func (r *AuditAnchor) open(Opener) (bool, error) { return false, areText(r.Log, r.Hash) }

// An AuditEntry is a line of an audit log. The chain of a log is its reader's to check.
type AuditEntry struct {
	Log  string `json:"log"`
	Seq  int64  `json:"seq"`
	Line string `json:"line"`
}

// Table implements Record.
func (*AuditEntry) Table() string { return auditPrefix + "entry" }

// Fields implements Record.
func (r *AuditEntry) Fields() []any { return []any{&r.Log, &r.Seq, &r.Line} }

func (r *AuditEntry) key() string { return logKey(r.Log, r.Seq) }

func (r *AuditEntry) open(Opener) (bool, error) { return false, areText(r.Log, r.Line) }

func logKey(log string, seq int64) string { return fmt.Sprintf("%s\x00%020d", log, seq) }

// areText refuses what JSON would alter, or PostgreSQL would not take.
func areText(texts ...string) error {
	for _, text := range texts {
		if !utf8.ValidString(text) {
			return errors.New("a text is not UTF-8")
		}
	}
	return nil
}
