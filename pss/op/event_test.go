package op

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func TestEventsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var events []Event
		var b []byte
		for range rapid.IntRange(0, 5).Draw(t, "events") {
			e := Event{rapid.Uint64().Draw(t, "number"), rapid.Uint64().Draw(t, "source"),
				EventKind(rapid.IntRange(1, int(eventKinds)-1).Draw(t, "kind")), uint8(rapid.IntRange(0, 1).Draw(t, "mode")),
				drawName(30).Draw(t, "name"), drawName(30).Draw(t, "entry")}
			events = append(events, e)
			before := len(b)
			if b = AppendEvent(b, &e); len(b)-before != e.Size() {
				t.Fatalf("%d bytes, and Size says %d", len(b)-before, e.Size())
			}
		}
		if got, err := ParseEvents(b); err != nil || !reflect.DeepEqual(got, events) {
			t.Fatalf("%+v became %+v, %v", events, got, err)
		}
	})
}

func TestEventsRefuse(t *testing.T) {
	good := AppendEvent(nil, &Event{1, 2, EventLock, EventRecall, "n", "e"})
	patch := func(at int, v byte) []byte { b := bytes.Clone(good); b[at] = v; return b }
	for name, b := range map[string][]byte{"kind 0": patch(16, 0), "kind 4": patch(16, 4), "mode of another kind": patch(17, 2),
		"name too long": patch(18, 200), "entry too long": patch(21, 2), "rest": append(bytes.Clone(good), 0)} {
		if _, err := ParseEvents(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := 1; n < len(good); n++ {
		if _, err := ParseEvents(good[:n]); !errors.Is(err, ErrInvalid) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
}

func TestExpiries(t *testing.T) {
	var args []byte
	for i := range uint32(MaxExpiries) {
		args = AppendExpiry(args, Expiry{uint64(i) << 32, i})
	}
	o, err := Parse(encode(Header{Code: SessionExpire}, args, nil))
	if err != nil {
		t.Fatal(err)
	}
	if list, err := o.Expiries(); err != nil || len(list) != MaxExpiries || list[MaxExpiries-1] != (Expiry{(MaxExpiries - 1) << 32, MaxExpiries - 1}) {
		t.Errorf("%d sessions, %v", len(list), err)
	}
	o.Args = args[:13]
	if _, err := o.Expiries(); !errors.Is(err, ErrInvalid) {
		t.Errorf("13 bytes: %v", err)
	}
}

func FuzzParseEvents(f *testing.F) {
	f.Add(AppendEvent(nil, &Event{1, 2, EventDir, EventUpdated, "/d", "file"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := ParseEvents(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		var again []byte
		for i := range events {
			again = AppendEvent(again, &events[i])
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}
