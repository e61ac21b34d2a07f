package detail

import (
	"errors"
	"reflect"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	c := Configuration{
		Accounts: []Account{{"joe", "a,\"b\n"}},
		Targets: []Target{{TID: 7, Name: "iqn.x:y", Accounts: Binding{Incoming: []string{"joe"}, HasOutgoing: true},
			Units: []Unit{{LUN: 1<<64 - 2, Path: "/d", Params: []string{"vendor_id=X"}, Unsure: true}}}},
	}
	text, err := Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(text)
	c.Version = version
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("%+v, %v, want %+v", got, err, c)
	}
}

func TestDecodeRefuses(t *testing.T) {
	if _, err := Decode("System:\n    State: ready\n"); !errors.Is(err, ErrNone) {
		t.Errorf("tgt's answer: %v", err)
	}
	for _, text := range []string{"{", `{"version":2}`, `{"version":"1"}`, `{}`} {
		if _, err := Decode(text); err == nil || errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// FuzzDecode: any text is a configuration of the known version or an error.
func FuzzDecode(f *testing.F) {
	f.Add(`{"version":1,"targets":[{"units":[{}]}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := Decode(text); err == nil && c.Version != version {
			t.Errorf("%q: version %d", text, c.Version)
		}
	})
}
