package keep

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "targets.conf")
	start := time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC)
	if backup, err := Write(path, "first", start); err != nil || backup != "" {
		t.Fatalf("the first: backup %q, %v", backup, err)
	}
	if info, _ := os.Stat(path); info.Mode() != mode {
		t.Errorf("mode %v", info.Mode())
	}
	if backup, err := Write(path, "first", start); err != nil || backup != "" {
		t.Errorf("the same again: backup %q, %v", backup, err)
	}
	backup, err := Write(path, "second", start)
	if want := filepath.Join(dir, Folder, "targets.conf-20261122T010203.000000000"); err != nil || backup != want {
		t.Fatalf("backup %q, %v, want %q", backup, err, want)
	}
	if read(t, path) != "second" || read(t, backup) != "first" {
		t.Errorf("file %q, backup %q", read(t, path), read(t, backup))
	}
	again, err := Write(path, "third", start) // in the same instant
	if err != nil || read(t, again) != "second" || read(t, backup) != "first" {
		t.Errorf("%q, %v", again, err)
	}
	other := filepath.Join(dir, Folder, "targets.conf-mine")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * Backups {
		if _, err := Write(path, fmt.Sprint(i), start.Add(time.Duration(i+1)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	names, err := filepath.Glob(filepath.Join(dir, Folder, "*"))
	if err != nil || len(names) != Backups+1 {
		t.Errorf("%d backups and others: %q, %v", len(names), names, err)
	}
	if newest := read(t, names[Backups-1]); newest != fmt.Sprint(2*Backups-2) {
		t.Errorf("the newest backup is %q", newest)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestLink: a link stays one, and the file it leads to is replaced.
func TestLink(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := os.WriteFile(real, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(link, "new", time.Now()); err != nil || read(t, real) != "new" {
		t.Errorf("%q, %v", read(t, real), err)
	}
	if _, err := os.Readlink(link); err != nil {
		t.Errorf("the link: %v", err)
	}
}

func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "none", "x")} {
		if _, err := Write(path, "text", time.Now()); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
	// a backup that cannot be kept: the file stays as it is
	path := filepath.Join(dir, "targets.conf")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, Folder), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(path, "new", time.Now()); err == nil || read(t, path) != "old" {
		t.Errorf("%q, %v", read(t, path), err)
	}
}
