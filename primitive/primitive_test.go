package primitive_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"muster"
	"muster/primitive"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func request() *primitive.Request {
	return &primitive.Request{Operation: primitive.Retrieve, To: "-", From: "//sp.example/a", RequestID: "1", ReleaseVersion: "3"}
}

func TestServe(t *testing.T) {
	t.Parallel()
	created := &primitive.Response{Status: primitive.Created, Location: "-/1"}
	for _, tc := range []struct {
		name    string
		change  func(*primitive.Request)
		respond *primitive.Response
		err     error
		want    primitive.Status
		detail  string
	}{
		{"answer", func(*primitive.Request) {}, created, nil, primitive.Created, ""},
		{"error with detail", func(*primitive.Request) {}, nil, fmt.Errorf("inner: %w", &primitive.Error{Status: primitive.BadRequest, Detail: "shown"}), primitive.BadRequest, "shown"},
		{"refusal", func(*primitive.Request) {}, nil, muster.Refuse(muster.CodeOriginMismatch, "hidden"), primitive.OriginatorNotAuthenticated, ""},
		{"internal", func(*primitive.Request) {}, created, errors.New("hidden"), primitive.InternalServerError, ""},
		{"nothing", func(*primitive.Request) {}, nil, nil, primitive.InternalServerError, ""},
		{"no identifier", func(r *primitive.Request) { r.RequestID = "" }, created, nil, primitive.BadRequest, "the Request Identifier is missing"},
		{"no target", func(r *primitive.Request) { r.To = "" }, created, nil, primitive.BadRequest, "the To parameter is missing"},
		{"no operation", func(r *primitive.Request) { r.Operation = 6 }, created, nil, primitive.BadRequest, "the Operation is not one of 1 to 5"},
		{"create without type", func(r *primitive.Request) { r.Operation = primitive.Create }, created, nil, primitive.BadRequest, "the Resource Type is missing"},
		{"retrieve with type", func(r *primitive.Request) { r.ResourceType = 60002 }, created, nil, primitive.BadRequest, "the Resource Type is for create only"},
		{"version absent", func(r *primitive.Request) { r.ReleaseVersion = "" }, created, nil, primitive.Created, ""},
		{"version unknown", func(r *primitive.Request) { r.ReleaseVersion = "1" }, created, nil, primitive.ReleaseVersionNotSupported, ""},
		{"expired", func(r *primitive.Request) { r.RequestExpiration.Time = now.Add(-time.Second) }, created, nil, primitive.RequestTimeout, "the request has expired"},
		{"not expired", func(r *primitive.Request) { r.RequestExpiration.Time = now }, created, nil, primitive.Created, ""},
		{"relative expiry", func(r *primitive.Request) { r.RequestExpiration.Relative = 1 }, created, nil, primitive.Created, ""},
		{"result expired", func(r *primitive.Request) { r.ResultExpiration.Time = now.Add(-time.Second) }, created, nil, primitive.RequestTimeout, "the request has expired"},
		{"delayed", func(r *primitive.Request) { r.OperationExecution.Time = now }, created, nil, primitive.NotImplemented, "the Operation Execution Time is not supported"},
	} {
		r := request()
		tc.change(r)
		handler := primitive.HandlerFunc(func(context.Context, *muster.Session, *primitive.Request) (*primitive.Response, error) {
			return tc.respond, tc.err
		})
		got := primitive.Serve(t.Context(), handler, nil, r, now)
		if got.Status != tc.want || got.Detail() != tc.detail || got.RequestID != r.RequestID || got.ReleaseVersion != r.ReleaseVersion {
			t.Errorf("%s: %+v with detail %q, want %v with %q", tc.name, got, got.Detail(), tc.want, tc.detail)
		}
	}
	if created.RequestID != "" {
		t.Error("Serve changes the handler's response")
	}
}

func TestStatusOf(t *testing.T) {
	t.Parallel()
	for code, want := range map[muster.Code]primitive.Status{
		muster.CodeKeyUnknown:        primitive.NotFound,
		muster.CodeKeyRetired:        primitive.NotFound,
		muster.CodeKeyExpired:        primitive.NotFound,
		muster.CodeKeyConflict:       primitive.NotFound,
		muster.CodeNotTarget:         primitive.NotFound,
		muster.CodeFetchesExhausted:  primitive.NotFound,
		muster.CodeMEFNotListed:      primitive.NotFound,
		muster.CodeOriginMismatch:    primitive.OriginatorNotAuthenticated,
		muster.CodeRequestMalformed:  primitive.BadRequest,
		muster.CodeRequestNotAllowed: primitive.OriginatorHasNoPrivilege,
		muster.CodeCloneSuspected:    primitive.OriginatorHasNoPrivilege,
		muster.CodeNameUnknown:       primitive.OriginatorHasNoPrivilege,
		muster.CodeAlreadyExported:   primitive.Conflict,
		muster.CodeBusy:              primitive.RequestTimeout,
		muster.CodeMEFUnreachable:    primitive.TargetNotReachable,
		muster.CodeRevoked:           primitive.InternalServerError,
	} {
		err := fmt.Errorf("outer: %w", muster.Refuse(code, "hidden"))
		got := primitive.ErrorOf(err)
		if busy := code == muster.CodeBusy; busy != (got.RetryAfter >= 2*time.Second && got.RetryAfter <= 5*time.Second) {
			t.Errorf("%s: to be repeated after %v", code, got.RetryAfter)
		}
		if got.RetryAfter = 0; got != (primitive.Error{Status: want}) {
			t.Errorf("%s: %+v, want %v without detail", code, got, want)
		}
	}
	for _, tc := range []struct {
		err  error
		want primitive.Status
	}{
		{muster.ErrExported, primitive.Conflict},
		{context.DeadlineExceeded, primitive.RequestTimeout},
		{context.Canceled, primitive.InternalServerError},
		{errors.New("any"), primitive.InternalServerError},
		{muster.Refuse(muster.CodeKeyUnknown, "%w", &primitive.Error{Status: primitive.Conflict}), primitive.Conflict},
	} {
		if got := primitive.StatusOf(tc.err); got != tc.want {
			t.Errorf("%v: %v, want %v", tc.err, got, tc.want)
		}
	}
	if text := primitive.OriginatorNotAuthenticated.String(); text != "4106 ORIGINATOR_NOT_AUTHENTICATED" {
		t.Errorf("the name is %q", text)
	}
}

func TestTimestamp(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Time{
		"20141003T112032":        time.Date(2014, 10, 3, 11, 20, 32, 0, time.UTC),
		"20141003T112032,5":      time.Date(2014, 10, 3, 11, 20, 32, 5e8, time.UTC),
		"20141003T112032,000001": time.Date(2014, 10, 3, 11, 20, 32, 1000, time.UTC),
		"20240229T235959":        time.Date(2024, 2, 29, 23, 59, 59, 0, time.UTC),
		"99991231T235959":        time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		got, err := primitive.ParseTimestamp(text)
		if err != nil || !got.Equal(want) || primitive.FormatTimestamp(got) != text {
			t.Errorf("%s: %v, %v; written %s", text, got, err, primitive.FormatTimestamp(got))
		}
	}
	for _, text := range []string{
		"", "20141003", "20141003T11203", "20141003T1120321", "2014-10-03T11:20:32", "20141003T112032Z", "20141003t112032",
		"20141003T112032,", "20141003T112032,1234567", "20141003T112032,+1", "20141003T112032.5", "20141303T112032",
		"20230229T000000", "20141003T240000", "20141003T112060", "00000101T000000", " 20141003T112032", "20141003T112032,1,2",
	} {
		if got, err := primitive.ParseTimestamp(text); err == nil {
			t.Errorf("%q is read as %v", text, got)
		}
	}
	if got := primitive.FormatTimestamp(time.Date(2026, 1, 2, 3, 4, 5, 999, time.FixedZone("", 3600))); got != "20260102T020405" {
		t.Errorf("written %s", got)
	}
}

func TestMoment(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]primitive.Moment{
		"20141003T112032": {Time: time.Date(2014, 10, 3, 11, 20, 32, 0, time.UTC)},
		"3600000":         {Relative: time.Hour},
	} {
		if got, err := primitive.ParseMoment(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "-1", "+1", "1.5", "1e3", "99999999999999", "999999999999999999999"} {
		if got, err := primitive.ParseMoment(text); err == nil {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

// Keys travel in contents and resources; nothing that prints or marshals shows them.
func TestNothingIsPrinted(t *testing.T) {
	t.Parallel()
	const secret = "c2VjcmV0"
	resource := primitive.NewResource(primitive.KindSymmKeyReg).Set(primitive.KeyValue, []byte(secret))
	for _, c := range []primitive.Content{
		primitive.RawContent(primitive.JSON, []byte(`{"a":"`+secret+`"}`)),
		primitive.NewContent(primitive.Object{"a": secret}),
	} {
		type hidden struct{ c primitive.Content }
		var log strings.Builder
		slog.New(slog.NewJSONHandler(&log, nil)).Info("", "content", c, "resource", resource, "request", primitive.Request{Content: c})
		printed := log.String()
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%o"} {
			printed += fmt.Sprintf(verb+verb+verb+verb, c, &c, hidden{c}, primitive.Response{Content: c})
			printed += fmt.Sprintf(verb+verb, resource, struct{ r *primitive.Resource }{resource})
		}
		if strings.Contains(printed, secret) || strings.Contains(printed, fmt.Sprintf("%x", secret)) {
			t.Errorf("content is printed: %s", printed)
		}
	}
}
