package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStamps(t *testing.T) {
	b := noise(3 * pageBytes)
	stamp(b, 7)
	if err := checkStamps(b, 7); err != nil {
		t.Error(err)
	}
	if err := checkStamps(b, 6); err == nil || !strings.Contains(err.Error(), "page 6 ") {
		t.Errorf("pages 7 to 9 for 6 to 8: %v", err)
	}
	b[2*pageBytes] ^= 1
	if err := checkStamps(b, 7); err == nil || !strings.Contains(err.Error(), "page 9 ") {
		t.Errorf("page 9 is damaged: %v", err)
	}
	if err := checkStamps(make([]byte, pageBytes), 0); err == nil {
		t.Error("zeros pass for page 0")
	}
}

func TestWriteContent(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := writeContent(name, 3<<20); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil || len(b) != 3<<20 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if err := checkStamps(b, 0); err != nil {
		t.Error(err)
	}
	if bytes.Count(b, make([]byte, 64)) > 0 {
		t.Error("it could be compressed")
	}
	if err := writeContent(name, 1<<20); err == nil {
		t.Error("a file that is there was overwritten")
	}
}
