package tef_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"muster/primitive"
	"muster/tef"
)

// descriptions are one of each class, and their text for a store.
func descriptions() map[string]tef.CommandDescription {
	return map[string]tef.CommandDescription{
		`{"cmdArgs":{"noMoreCmdArgs":{"retryDuration":"PT90S"}},"cmdClassID":0}`: {
			Class: tef.ClassNoMore, NoMore: &tef.NoMoreCommands{RetryAfter: 90 * time.Second}},
		`{"cmdArgs":{"certProvCmdArgs":{"URI":"https://mef.example.com/est","certProvProtocolID":1,"certSubjectID":"//sp.example.com/a","certSubjectType":3}},"cmdClassID":1,"targetID":"//sp.example.com/a"}`: {
			Class: tef.ClassCertificate, Target: "//sp.example.com/a", Certificate: &tef.CertificateProvisioning{
				Protocol: tef.ProtocolEST, URI: "https://mef.example.com/est", SubjectType: tef.SubjectAE, SubjectID: "//sp.example.com/a"}},
		`{"cmdArgs":{"devCfgCmdArgs":{"deviceConfigURI":"3:coaps://mef.example.com"}},"cmdClassID":2}`: {
			Class: tef.ClassDevice, Device: &tef.DeviceConfiguration{URI: "3:coaps://mef.example.com"}},
		`{"cmdArgs":{"MONodeCmdArgs":{"objectPath":"./a","objectTypeID":1,"objectTypeSpecifcArgs":{"SUID":21}}},"cmdClassID":3}`: {
			Class: tef.ClassNode, Node: &tef.NodeProcessing{Path: "./a", Type: tef.NodeAuthenticationProfile, Usage: 21}},
		`{"cmdArgs":{"MONodeCmdArgs":{"objectPath":"./a","objectTypeID":2}},"cmdClassID":3}`: {
			Class: tef.ClassNode, Node: &tef.NodeProcessing{Path: "./a", Type: tef.NodeTrustAnchor}},
	}
}

func TestDescriptions(t *testing.T) {
	for text, d := range descriptions() {
		octets, err := d.MarshalText()
		if err != nil || string(octets) != text {
			t.Errorf("written as %s, %v, want %s", octets, err, text)
		}
		var back tef.CommandDescription
		if err := back.UnmarshalText([]byte(text)); err != nil || !reflect.DeepEqual(back, d) {
			t.Errorf("%s read as %+v, %v", text, back, err)
		}
	}
}

func TestDescriptionsRefused(t *testing.T) {
	for text, arguments := range map[string]bool{
		`{}`: false, `{"cmdClassID":"0"}`: false, `{"cmdClassID":-1}`: false, `{"cmdClassID":3,"targetID":7}`: false,
		`{"cmdClassID":0}`:                                                                         true,
		`{"cmdClassID":0,"cmdArgs":{}}`:                                                            true,
		`{"cmdClassID":0,"cmdArgs":"x"}`:                                                           true,
		`{"cmdClassID":0,"cmdArgs":{"noMoreCmdArgs":{}}}`:                                          true,
		`{"cmdClassID":0,"cmdArgs":{"noMoreCmdArgs":{"retryDuration":"-PT1S"}}}`:                   true,
		`{"cmdClassID":0,"cmdArgs":{"noMoreCmdArgs":{"retryDuration":"PT1S"},"devCfgCmdArgs":{}}}`: true,
		`{"cmdClassID":0,"cmdArgs":{"devCfgCmdArgs":{"deviceConfigURI":"x"}}}`:                     true,
		`{"cmdClassID":1,"cmdArgs":{"certProvCmdArgs":{"URI":"x"}}}`:                               true,
		`{"cmdClassID":1,"cmdArgs":{"certProvCmdArgs":{"URI":"x","certProvProtocolID":1.5,"certSubjectType":1,"certSubjectID":"x"}}}`: true,
		`{"cmdClassID":2,"cmdArgs":{"devCfgCmdArgs":{"deviceConfigURI":""}}}`:                                                         true,
		`{"cmdClassID":3,"cmdArgs":{"MONodeCmdArgs":{"objectPath":"./a","objectTypeID":1}}}`:                                          true,
		`{"cmdClassID":3,"cmdArgs":{"MONodeCmdArgs":{"objectPath":"./a","objectTypeID":1,"objectTypeSpecifcArgs":{"SUID":"21"}}}}`:    true,
	} {
		var d tef.CommandDescription
		err := d.UnmarshalText([]byte(text))
		if err == nil || errors.Is(err, tef.ErrArguments) != arguments {
			t.Errorf("%s read as %+v, %v", text, d, err)
		}
	}
	for _, d := range []tef.CommandDescription{
		{}, {Class: 9}, {Class: tef.ClassNode, Device: &tef.DeviceConfiguration{URI: "x"}},
		{Class: tef.ClassDevice, Device: &tef.DeviceConfiguration{URI: "x"}, NoMore: &tef.NoMoreCommands{}},
		{Class: tef.ClassNoMore, NoMore: &tef.NoMoreCommands{RetryAfter: -time.Second}},
		{Class: tef.ClassNode, Node: &tef.NodeProcessing{Path: "x", Type: tef.NodeTrustAnchor, Usage: 21}},
		{Class: tef.ClassNode, Node: &tef.NodeProcessing{Path: "x", Type: tef.NodeAuthenticationProfile}},
	} {
		if text, err := d.MarshalText(); err == nil {
			t.Errorf("%+v written as %s", d, text)
		}
	}
}

func TestUnknownClassHasNoArguments(t *testing.T) {
	var d tef.CommandDescription
	if err := d.UnmarshalText([]byte(`{"cmdClassID":7,"cmdArgs":{"x":1}}`)); err != nil || d.Class != 7 || d.Node != nil {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestRetryDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"PT0S": 0, "PT1S": time.Second, "PT1.9S": time.Second, "PT90M": 90 * time.Minute, "P1D": 24 * time.Hour,
		"P1Y2M3DT4H5M6S": (365+60+3)*24*time.Hour + 4*time.Hour + 5*time.Minute + 6*time.Second,
		"":               -1, "P": -1, "PT": -1, "P1DT": -1, "1S": -1, "PT1": -1, "PT-1S": -1, "PT1.S": -1, "PT1.5M": -1, "PT1S1M": -1, "P1S": -1,
		"P11Y": -1, "PT99999999999S": -1, "P9Y366D": -1, "P1W": -1,
	} {
		var d tef.CommandDescription
		err := d.UnmarshalText([]byte(`{"cmdClassID":0,"cmdArgs":{"noMoreCmdArgs":{"retryDuration":"` + text + `"}}}`))
		if want < 0 && err == nil || want >= 0 && (err != nil || d.NoMore.RetryAfter != want) {
			t.Errorf("%q read as %+v, %v", text, d.NoMore, err)
		}
	}
}

func FuzzCommandDescription(f *testing.F) {
	for text := range descriptions() {
		f.Add([]byte(text))
	}
	f.Add([]byte(`{"cmdClassID":0,"cmdArgs":{"noMoreCmdArgs":{"retryDuration":"P1Y2M3DT4H5M6.7S"}}}`))
	f.Fuzz(func(t *testing.T, octets []byte) {
		var d tef.CommandDescription
		if d.UnmarshalText(octets) != nil || d.Class > tef.ClassNode {
			return
		}
		text, err := d.MarshalText()
		if err != nil {
			if d.Node != nil { // a number of a type that this version cannot write
				return
			}
			t.Fatalf("%+v cannot be written: %v", d, err)
		}
		var back tef.CommandDescription
		if err := back.UnmarshalText(text); err != nil || !reflect.DeepEqual(back, d) {
			t.Fatalf("%+v became %+v, %v", d, back, err)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	wire, function := must(primitive.NewWire(primitive.WireConfig{})), client("a").KmID.MAF()
	f.Add([]byte(`{"sec:skr":{"ri":"000102030405060708090A0B0C0D0E0F","et":"20300101T000000","suid":32,"scid":"//sp.example.com/a","kv":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}}`))
	f.Add([]byte(`{"sec:skr":{"ri":"00","et":"20300101T000000","suid":32,"scid":"//sp.example.com/a"}}`))
	f.Fuzz(func(t *testing.T, octets []byte) {
		r, err := tef.ParseKey(wire, function, &primitive.Response{Status: primitive.OK, Content: primitive.RawContent(primitive.JSON, octets)})
		if err == nil && (r.ID.IsZero() || r.Source.IsZero() || r.Expires.IsZero()) {
			t.Errorf("read as %+v", r)
		}
	})
}

func TestKeyIDs(t *testing.T) {
	const text = "000102030405060708090A0B0C0D0E0F@maf.example.com"
	id, err := tef.ParseKeyID("000102030405060708090a0b0c0d0e0f@maf.example.com")
	if err != nil || id.String() != text || id.Function().String() != "maf.example.com" || id.Relative()[15] != 15 || id.IsZero() {
		t.Errorf("%s, %v", id, err)
	}
	for _, text := range []string{"", "x@maf.example.com", text[:31] + text[32:], text + "x y", "@maf.example.com"} {
		if id, err := tef.ParseKeyID(text); err == nil {
			t.Errorf("%q read as %s", text, id)
		}
	}
}
