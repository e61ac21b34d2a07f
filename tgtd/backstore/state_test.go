package backstore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStateFile(t *testing.T) {
	dir, medium := t.TempDir(), filepath.Join(t.TempDir(), "disk.img")
	if NewStateFile(dir, medium) != nil {
		t.Error("a state for a medium that is not there")
	}
	if err := os.WriteFile(medium, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if NewStateFile("", medium) != nil || NewStateFile(filepath.Join(dir, "none"), medium) != nil {
		t.Error("a state without a folder")
	}
	f := NewStateFile(dir, medium)
	if value, version, err := f.LoadState(t.Context()); value != nil || version != 0 || err != nil {
		t.Errorf("%q, %d, %v", value, version, err)
	}
	for n, value := range []string{"one", "", strings.Repeat("x", MaxStateBytes)} {
		version, err := f.SaveState(t.Context(), []byte(value), uint64(n))
		if err != nil || version != uint64(n+1) {
			t.Fatalf("%d, %v", version, err)
		}
		if got, version, err := NewStateFile(dir, medium).LoadState(t.Context()); string(got) != value || version != uint64(n+1) || err != nil {
			t.Fatalf("%.20q, %d, %v", got, version, err)
		}
	}
	if _, err := f.SaveState(t.Context(), nil, 1); !errors.Is(err, ErrStateChanged) {
		t.Error(err)
	}
	if _, err := f.SaveState(t.Context(), make([]byte, MaxStateBytes+1), 3); err == nil {
		t.Error("too much was saved")
	}
	if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(names) != 1 {
		t.Errorf("files %v, %v", names, err)
	}
	// A save that the folder does not allow leaves the old state.
	broken := &StateFile{filepath.Join(dir, "none", "x.state")}
	if _, err := broken.SaveState(t.Context(), nil, 0); err == nil {
		t.Error("saved into a folder that is not there")
	}
	b, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	b[20] ^= 1
	if err := os.WriteFile(f.path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.LoadState(t.Context()); !errors.Is(err, ErrStateDamaged) || !strings.Contains(err.Error(), f.path) {
		t.Error(err)
	}
	if _, err := f.SaveState(t.Context(), nil, 3); !errors.Is(err, ErrStateDamaged) {
		t.Error(err)
	}
}

// TestStateForm pins the file's form.
func TestStateForm(t *testing.T) {
	const want = "tgtstat\x01\x00\x00\x00\x00\x00\x00\x00\x05value"
	if got := string(appendState(nil, []byte("value"), 5)); got[:len(got)-4] != want {
		t.Errorf("%q", got)
	}
}

func FuzzState(f *testing.F) {
	f.Add(appendState(nil, []byte("value"), 5))
	f.Fuzz(func(t *testing.T, b []byte) {
		value, version, ok := parseState(b)
		if ok && !bytes.Equal(appendState(nil, value, version), b) {
			t.Errorf("% x", b)
		}
	})
}
