package auth

import (
	"bufio"
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of a key file.
const (
	MaxKeys = 4        // keys in one file; rolling needs two
	maxLine = 1 << 10  // bytes of one line
	maxFile = 16 << 10 // bytes of the whole file

	secretSize = 32 // bytes
)

// The first words of a key file: what it is, and its version.
const (
	fileMagic   = "pss-cell-key"
	fileVersion = "1"
)

const fileComment = "# Whoever can read this file can read and change everything in the cell.\n"

// KeyID is the public name of a key. It is derived from the key, so a mistyped key is noticed.
type KeyID uint32

// String is the id as key files and status displays have it: eight hex digits.
func (id KeyID) String() string { return fmt.Sprintf("%08x", uint32(id)) }

// MarshalText makes the id a string in JSON.
func (id KeyID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *KeyID) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 16, 32)
	if err != nil || len(b) != 8 {
		return fmt.Errorf("key id %q is not eight hex digits", b)
	}
	*id = KeyID(n)
	return nil
}

// Key is one key of a cell. Its secret can't be printed.
type Key struct {
	ID      KeyID
	Created time.Time // UTC, whole seconds
	secret  [secretSize]byte
}

// String names the key.
func (k Key) String() string { return "key " + k.ID.String() }

// Format is String with every verb, so that none prints the secret.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// newKey draws a key.
func newKey(now time.Time) (Key, error) {
	k := Key{Created: now.UTC().Truncate(time.Second)}
	if _, err := rand.Read(k.secret[:]); err != nil {
		return Key{}, fmt.Errorf("draw a key: %w", err)
	}
	k.ID = idOf(&k.secret)
	return k, nil
}

// derive makes n bytes for one use out of a secret.
func derive(secret, salt []byte, use string, n int) []byte {
	b, err := hkdf.Key(sha256.New, secret, salt, "pss cell key v1: "+use, n)
	if err != nil {
		panic(fmt.Sprintf("auth: HKDF of %d bytes: %v", n, err)) // more than 255 blocks, or a FIPS mode without HKDF
	}
	return b
}

func idOf(secret *[secretSize]byte) KeyID {
	return KeyID(binary.BigEndian.Uint32(derive(secret[:], nil, "id", 4)))
}

// SyntaxError says what is wrong with a key file, and where. It never quotes the file: it may be a secret.
type SyntaxError struct {
	File string
	Line int // from 1; 0 when it is about the file as a whole
	Text string
}

// Error is FILE:LINE: text.
func (e *SyntaxError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Text)
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Text)
}

// Parse reads a key file; name stands for it in errors, which are SyntaxErrors. The first line says what it is,
// every other line is a key, the one that signs first:
//
//	pss-cell-key 1
//	key ID CREATED SECRET
//
// ID is eight hex digits that follow from the secret, CREATED a time as in 2026-11-22T01:02:03Z, SECRET 64 hex
// digits. A # begins a comment, and empty lines say nothing.
func Parse(name string, b []byte) ([]Key, error) {
	if len(b) > maxFile {
		return nil, &SyntaxError{File: name, Text: fmt.Sprintf("longer than %d bytes", maxFile)}
	}
	p := keyParser{name: name}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		p.line++
		text, _, _ := strings.Cut(lines.Text(), "#")
		if fields := strings.Fields(text); len(fields) > 0 {
			if err := p.take(fields); err != nil {
				return nil, err
			}
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		p.line++
		return nil, p.fail("the line is longer than %d bytes", maxLine)
	}
	p.line = 0
	switch {
	case !p.begun:
		return nil, p.fail("it does not begin with %q", fileMagic+" "+fileVersion)
	case len(p.keys) == 0:
		return nil, p.fail("it has no key")
	}
	return p.keys, nil
}

// keyParser collects the keys of one file.
type keyParser struct {
	name  string
	line  int
	begun bool
	keys  []Key
}

func (p *keyParser) fail(format string, args ...any) error {
	return &SyntaxError{p.name, p.line, fmt.Sprintf(format, args...)}
}

func (p *keyParser) take(fields []string) error {
	if !p.begun {
		switch {
		case len(fields) != 2 || fields[0] != fileMagic:
			return p.fail("this is no cell key: it does not begin with %q", fileMagic+" "+fileVersion)
		case fields[1] != fileVersion:
			return p.fail("a cell key of another version than %s", fileVersion)
		}
		p.begun = true
		return nil
	}
	if len(fields) != 4 || fields[0] != "key" {
		return p.fail("want: key ID CREATED SECRET")
	}
	var k Key
	if err := k.ID.UnmarshalText([]byte(fields[1])); err != nil {
		return p.fail("the id is not eight hex digits")
	}
	var err error
	if k.Created, err = time.Parse(time.RFC3339, fields[2]); err != nil {
		return p.fail("the date is not one like 2026-11-22T01:02:03Z")
	}
	k.Created = k.Created.UTC().Truncate(time.Second)
	secret, err := hex.DecodeString(fields[3])
	if err != nil || len(secret) != secretSize {
		return p.fail("the secret is not %d hex digits", 2*secretSize)
	}
	copy(k.secret[:], secret)
	switch {
	case idOf(&k.secret) != k.ID:
		return p.fail("the secret is not that of key %v", k.ID)
	case slices.ContainsFunc(p.keys, func(o Key) bool { return o.ID == k.ID }):
		return p.fail("key %v is there already", k.ID)
	case len(p.keys) == MaxKeys:
		return p.fail("more than %d keys", MaxKeys)
	}
	p.keys = append(p.keys, k)
	return nil
}

// format is the text of a key file.
func format(keys []Key) []byte {
	b := []byte(fileComment + fileMagic + " " + fileVersion + "\n")
	for _, k := range keys {
		b = fmt.Appendf(b, "key %v %s %x\n", k.ID, k.Created.Format(time.RFC3339), k.secret[:])
	}
	return b
}
