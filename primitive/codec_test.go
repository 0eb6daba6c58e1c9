package primitive_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"muster/primitive"
)

func TestRequestCodec(t *testing.T) {
	t.Parallel()
	full := &primitive.Request{
		Operation: primitive.Create, To: "-", From: "//sp.example/a", RequestID: "A1", ResourceType: 60002, ReleaseVersion: "3",
		ResultContent: primitive.ResultNothing, EventCategory: 2,
		OriginatingTimestamp: now, RequestExpiration: primitive.Moment{Time: now}, ResultExpiration: primitive.Moment{Relative: time.Minute},
		OperationExecution: primitive.Moment{Time: now}, Content: primitive.NewContent(primitive.Object{"sec:macr": primitive.Object{"adfq": "a.example"}}),
	}
	const golden = `{"ec":2,"fr":"//sp.example/a","oet":"20261123T120000","op":1,"ot":"20261123T120000",` +
		`"pc":{"sec:macr":{"adfq":"a.example"}},"rcn":0,"rqet":"20261123T120000","rqi":"A1","rset":"60000","rvi":"3","to":"-","ty":60002}`
	const long = `{"eventCategory":2,"from":"//sp.example/a","operationExecutionTime":"20261123T120000","operation":1,"originatingTimestamp":"20261123T120000",` +
		`"primitiveContent":{"sec:macr":{"adfq":"a.example"}},"resultContent":0,"requestExpirationTimestamp":"20261123T120000","requestIdentifier":"A1",` +
		`"resultExpirationTimestamp":60000,"releaseVersionIndicator":"3","to":"-","resourceType":60002,"responseType":{"rtv":3},"vendorInformation":"x"}`
	octets, err := full.Encode(primitive.JSON)
	if err != nil || string(octets) != golden {
		t.Errorf("%s, %v\nwant %s", octets, err, golden)
	}
	binary, err := full.Encode(primitive.CBOR)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		format primitive.Format
		octets string
	}{{primitive.JSON, golden}, {primitive.JSON, long}, {primitive.CBOR, string(binary)}} {
		got, err := primitive.DecodeRequest(tc.format, []byte(tc.octets))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, full) {
			t.Errorf("%v\nwant %v", got, full)
		}
	}
}

func TestRequestRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		status primitive.Status
		named  string
	}{
		`{"op":0}`:      {primitive.BadRequest, `"op"`},
		`{"op":"1"}`:    {primitive.BadRequest, `"op"`},
		`{"op":1.0}`:    {primitive.BadRequest, `"op"`},
		`{"ty":65536}`:  {primitive.BadRequest, `"ty"`},
		`{"to":""}`:     {primitive.BadRequest, `"to"`},
		`{"to":1}`:      {primitive.BadRequest, `"to"`},
		`{"fr":"a\nb"}`: {primitive.BadRequest, `"fr"`},
		`{"rqi":"` + strings.Repeat("x", 513) + `"}`:  {primitive.BadRequest, `"rqi"`},
		`{"to":"a","rqi":"1","requestIdentifier":""}`: {primitive.BadRequest, `"rqi"`},
		`{"rvi":"3.0"}`:        {primitive.BadRequest, `"rvi"`},
		`{"rvi":3}`:            {primitive.BadRequest, `"rvi"`},
		`{"ot":"60000"}`:       {primitive.BadRequest, `"ot"`},
		`{"rqet":true}`:        {primitive.BadRequest, `"rqet"`},
		`{"rset":0}`:           {primitive.BadRequest, `"rset"`},
		`{"oet":"soon"}`:       {primitive.BadRequest, `"oet"`},
		`{"pc":[]}`:            {primitive.BadRequest, `"pc"`},
		`{"rcn":7}`:            {primitive.NotImplemented, `"rcn"`},
		`{"rcn":-1}`:           {primitive.BadRequest, `"rcn"`},
		`{"rt":{"rtv":2}}`:     {primitive.NotImplemented, `"rt"`},
		`{"rt":3}`:             {primitive.NotImplemented, `"rt"`},
		`{"fc":{}}`:            {primitive.NotImplemented, `"fc"`},
		`{"tokens":[]}`:        {primitive.NotImplemented, `"tkns"`},
		`{"filterCriteria":0}`: {primitive.NotImplemented, `"fc"`},
		`{"rsc":2000}`:         {primitive.NotImplemented, `"rsc"`},
		`{"xyz":1}`:            {primitive.BadRequest, `"xyz"`},
	} {
		_, err := primitive.DecodeRequest(primitive.JSON, []byte(text))
		refusal, ok := errors.AsType[*primitive.Error](err)
		if !ok || refusal.Status != want.status || !strings.Contains(refusal.Detail, want.named) {
			t.Errorf("%.60s: %v, want %v naming %s", text, err, want.status, want.named)
		}
	}
}

func TestResponseCodec(t *testing.T) {
	t.Parallel()
	r := &primitive.Response{Status: primitive.Created, RequestID: "A1", ReleaseVersion: "3", Content: primitive.NewContent(primitive.Object{"a": int64(1)})}
	const golden = `{"pc":{"a":1},"rqi":"A1","rsc":2001,"rvi":"3"}`
	if octets, err := r.Encode(primitive.JSON); err != nil || string(octets) != golden {
		t.Errorf("%s, %v", octets, err)
	}
	if got, err := primitive.DecodeResponse(primitive.JSON, []byte(golden)); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{`{}`, `{"rsc":"2000"}`, `{"rsc":99}`, `{"rsc":2000,"rqi":""}`, `{"rsc":2000,"pc":1}`, `{"rsc":2000,"x":1}`} {
		if got, err := primitive.DecodeResponse(primitive.JSON, []byte(text)); err == nil {
			t.Errorf("%s is read as %v", text, got)
		}
	}
}

func TestQuery(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]primitive.Status{
		"rcn=0": 0, "rcn=1": 0, "rt=3": 0,
		"rcn=": primitive.BadRequest, "rcn=x": primitive.BadRequest, "rt=x": primitive.BadRequest,
		"rcn=7": primitive.NotImplemented, "rt=1": primitive.NotImplemented, "fu=1": primitive.NotImplemented, "x": primitive.NotImplemented,
	} {
		r := &primitive.Request{}
		name, value, _ := strings.Cut(field, "=")
		err := r.SetQuery(name, value)
		if want == 0 && err != nil || want != 0 && primitive.StatusOf(err) != want {
			t.Errorf("%s: %v, want %v", field, err, want)
		}
		if query := r.Query(); want == 0 && name == "rcn" && (len(query) != 1 || query[0] != field) {
			t.Errorf("%s is written %v", field, query)
		}
	}
	r := &primitive.Request{ResultContent: primitive.ResultNothing}
	if err := r.SetQuery("rcn", "1"); err == nil {
		t.Error("rcn is taken twice")
	}
}

// What is refused can be answered.
func TestRefusedRequestKeepsItsIdentifier(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]primitive.Request{
		`{"fc":{},"rqi":"A1","rvi":"3","to":"-"}`:                                {RequestID: "A1", ReleaseVersion: "3"},
		`{"op":9,"requestIdentifier":"A1","releaseVersionIndicator":"4","to":1}`: {RequestID: "A1", ReleaseVersion: "4"},
		`{"op":9,"rqi":"A\n1","rvi":"300"}`:                                      {},
		`[]`:                                                                     {},
	} {
		got, err := primitive.DecodeRequest(primitive.JSON, []byte(text))
		if err == nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add(true, []byte(`{"op":1,"to":"-","fr":"//sp/a","rqi":"A1","ty":60002,"rvi":"3","rqet":60000,"rcn":0,"pc":{"sec:macr":{}}}`))
	f.Add(false, []byte{0xa1, 0x62, 'o', 'p', 0x01})
	f.Fuzz(func(t *testing.T, json bool, octets []byte) {
		format := primitive.CBOR
		if json {
			format = primitive.JSON
		}
		if _, err := primitive.DecodeResponse(format, octets); err != nil && primitive.StatusOf(err) != primitive.BadRequest {
			t.Fatalf("response: %v", err)
		}
		r, err := primitive.DecodeRequest(format, octets)
		if err != nil {
			if s := primitive.StatusOf(err); s != primitive.BadRequest && s != primitive.NotImplemented {
				t.Fatal(err)
			}
			return
		}
		again, err := r.Encode(primitive.CBOR)
		if err != nil {
			t.Fatal(err)
		}
		if r.Operation == 0 {
			return // decoded, but refused by Serve
		}
		if same, err := primitive.DecodeRequest(primitive.CBOR, again); err != nil || !reflect.DeepEqual(r, same) {
			t.Fatalf("%v becomes %v, %v", r, same, err)
		}
	})
}

func FuzzTimestamp(f *testing.F) {
	for _, s := range []string{"20141003T112032", "20141003T112032,5", "3600000", "", "20141003T112032,000000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := primitive.ParseMoment(s)
		if err != nil {
			return
		}
		if same, err := primitive.ParseMoment(m.String()); err != nil || !same.Time.Equal(m.Time) || same.Relative != m.Relative {
			t.Fatalf("%q is written %q and read %v, %v", s, m, same, err)
		}
	})
}
