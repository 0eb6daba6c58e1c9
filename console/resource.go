package console

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"muster"
)

// A Query asks for a page of a list.
type Query struct {
	Scope  Scope
	After  string            // Next of the page before; "" for the first page
	Limit  int               // items at most, at least 1
	Filter map[string]string // by the names that the route lists
}

// A Page is a part of a list, and where the next begins; "" after the last.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// ErrNoCursor is returned by a List for an After that it does not know (any more).
var ErrNoCursor = errors.New("the cursor is not, or no longer, known")

// A List returns a page of what a function has. It may be called by many goroutines
// at once.
type List[T any] func(ctx context.Context, q Query) (Page[T], error)

// Sources are what a function lets its operators see and do. What is nil, it does
// not have. All may be called by many goroutines at once.
type Sources struct {
	Overview      func(ctx context.Context) (Overview, error)
	Enrolments    List[Enrolment]
	Credentials   List[Credential]
	Kpms          List[Kpm]
	Registrations List[Registration]
	Keys          List[Key]
	Commands      List[Command]
	Refusals      List[Refusal]
	Audit         List[json.RawMessage] // as they were written, so that the chain can be followed
	Events        EventSource
	Rules         RuleKeeper

	// Explain judges the chain of a refusal as a handshake would now.
	Explain func(ctx context.Context, refusal string) (json.RawMessage, error)
	// Queue queues a command, and returns for how many clients it stands in the queue.
	Queue func(ctx context.Context, order CommandOrder) (Queued, error)
	// Reload makes the function read its configuration again.
	Reload func(ctx context.Context) (Reloaded, error)
	// Record writes down an act of an operator before its consequence is visible.
	Record func(ctx context.Context, act Act) error
}

// Reloaded is what came of reading a configuration again.
type Reloaded struct {
	Read     map[string]int `json:"read"`     // how many there are of each rule, by its key
	Identity bool           `json:"identity"` // whether the function has another certificate
	Restart  []string       `json:"restart"`  // keys of what has changed and takes effect at the next start
}

// An Act is what an operator did or was refused.
type Act struct {
	Who  string // the operator
	What string
	Code muster.Code // of a refusal; empty when the act is done
}

// An EventSource tells what happens.
type EventSource interface {
	// Watch calls tell with each event after the one with the number after, or from
	// now on with 0, until ctx ends or tell fails. Events that are too long ago are
	// left out, as a gap in their numbers shows.
	Watch(ctx context.Context, after uint64, tell func(Event) error) error
}

// An Event is an act that a function wrote down, or a refusal.
type Event struct {
	ID      uint64      `json:"id"` // counts from 1 since the start of the function
	Time    time.Time   `json:"time"`
	Kind    string      `json:"kind"`
	Who     string      `json:"who,omitempty"`
	What    string      `json:"what,omitempty"`
	Rule    string      `json:"rule,omitempty"`
	Enrolee string      `json:"enrolee,omitempty"`
	KeID    string      `json:"ke_id,omitempty"`
	Code    muster.Code `json:"code,omitempty"`
}

// An Overview is the state of a function.
type Overview struct {
	Function string    `json:"function"` // its FQDN
	Role     string    `json:"role"`     // mef or maf
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Now      time.Time `json:"now"`
	Checks   []Check   `json:"checks"` // of readiness
	// Certificates are its own and its trust anchors, the first to expire first.
	Certificates []Certificate `json:"certificates"`
	// Totals count what happened since the start, by kind; refusals by code as refused/CODE.
	Totals map[string]uint64 `json:"totals"`
	// Minutes and Quarters count it for the last hour and the last day, the oldest first.
	Minutes  []Bucket `json:"minutes"`
	Quarters []Bucket `json:"quarters"`
}

// A Check is a condition of readiness.
type Check struct {
	Name   string      `json:"name"`
	OK     bool        `json:"ok"`
	Code   muster.Code `json:"code,omitempty"`
	Detail string      `json:"detail,omitempty"`
}

// A Certificate is one that a function depends on.
type Certificate struct {
	Use      string    `json:"use"` // identity or anchor
	ID       string    `json:"id"`  // SHA-256
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"not_after"`
}

// A Bucket counts what happened in a time that begins at Start.
type Bucket struct {
	Start    time.Time `json:"start"`
	Enrolled uint64    `json:"enrolled"`
	Attached uint64    `json:"attached"`
	Fetched  uint64    `json:"fetched"`
	Refused  uint64    `json:"refused"`
}

// An Enrolment is an enrolment for one of its targets, without its key.
type Enrolment struct {
	KeID        string     `json:"ke_id"`
	EnroleeID   string     `json:"enrolee_id"`
	Generation  int64      `json:"generation"`
	MAF         string     `json:"maf"`
	State       string     `json:"state"`
	Certificate string     `json:"certificate"` // SHA-256; zeros for a pre-provisioned key
	Created     time.Time  `json:"created"`
	Expires     time.Time  `json:"expires"`
	Fetched     *time.Time `json:"fetched,omitempty"` // first
	Fetches     int        `json:"fetches"`
}

// A Credential is a Master Credential of a MAF, without its key.
type Credential struct {
	KmID       string    `json:"km_id"`
	KeID       string    `json:"ke_id"`
	EnroleeID  string    `json:"enrolee_id"`
	Generation int64     `json:"generation"`
	State      string    `json:"state"`
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires"`
	KeIDUntil  time.Time `json:"ke_id_until"`
}

// A Kpm is a pre-provisioned key of a MEF, without its value.
type Kpm struct {
	KpmID      string     `json:"kpm_id"`
	EnroleeID  string     `json:"enrolee_id"`
	Generation int64      `json:"generation"`
	State      string     `json:"state"`
	Created    time.Time  `json:"created"`
	Until      *time.Time `json:"until,omitempty"`
}

// A Registration is a client's registration with an administrating stakeholder.
type Registration struct {
	ID          string    `json:"id"`
	ClientID    string    `json:"client_id"`
	Stakeholder string    `json:"stakeholder"`
	Labels      []string  `json:"labels"`
	KmID        string    `json:"km_id,omitempty"`
	Created     time.Time `json:"created"`
	Modified    time.Time `json:"modified"`
	Expires     time.Time `json:"expires"`
}

// A Key is what is known of a registered key, but for its value.
type Key struct {
	ID          string    `json:"id"`
	Source      string    `json:"source"`
	Stakeholder string    `json:"stakeholder"`
	Usage       string    `json:"usage"`
	Targets     []string  `json:"targets"`
	Labels      []string  `json:"labels"`
	Fetches     int       `json:"fetches"`
	Created     time.Time `json:"created"`
	Modified    time.Time `json:"modified"`
	Expires     time.Time `json:"expires"`
}

// A Command is a MEF client command in the queue of a client.
type Command struct {
	ID          string          `json:"id"`
	EnroleeID   string          `json:"enrolee_id"`
	Stakeholder string          `json:"stakeholder"`
	Status      int             `json:"status"`
	Description json.RawMessage `json:"description"`
	Created     time.Time       `json:"created"`
	Changed     time.Time       `json:"changed"`
}

// A CommandOrder is a command and for whom it is meant: one Enrolee, or all whose
// identifier begins with Prefix.
type CommandOrder struct {
	ID          string   `json:"id"`
	Stakeholder string   `json:"stakeholder"`
	EnroleeID   string   `json:"enrolee_id,omitempty"`
	Prefix      string   `json:"prefix,omitempty"`
	Command     []string `json:"command"` // a class and its arguments, as muster command queue takes them
}

// Queued says for how many clients a command stands in the queue.
type Queued struct {
	Clients int `json:"clients"`
}

// A Refusal is a chain that was refused.
type Refusal struct {
	ID          string      `json:"id"`
	Time        time.Time   `json:"time"`
	Code        muster.Code `json:"code"`
	Detail      string      `json:"detail"`
	Remote      string      `json:"remote"`
	Transport   string      `json:"transport"`
	Certificate string      `json:"certificate"`
}
