package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
)

// pageBytes is the unit in which content is told apart, and the smallest I/O.
const pageBytes = 4096

// Every page of a store begins with a stamp that names the page, and goes on with noise that is the same
// everywhere. So a read that brings the wrong page, or one that was never written, is noticed; it costs one
// comparison a page.
const stampBytes = 8

// stampOf is the stamp of a page, counted from the beginning of the unit.
func stampOf(page uint64) uint64 { return 0x9e3779b97f4a7c15 * (page + 1) }

// stamp makes b, whole pages, the content from a page on. The noise stays as it is.
func stamp(b []byte, page uint64) {
	for ; len(b) >= pageBytes; b = b[pageBytes:] {
		binary.LittleEndian.PutUint64(b[:stampBytes], stampOf(page))
		page++
	}
}

// checkStamps says whether b is the content from a page on.
func checkStamps(b []byte, page uint64) error {
	for ; len(b) >= pageBytes; b = b[pageBytes:] {
		if have := binary.LittleEndian.Uint64(b[:stampBytes]); have != stampOf(page) {
			return fmt.Errorf("page %d holds foreign data: it begins with %016x, not %016x", page, have, stampOf(page))
		}
		page++
	}
	return nil
}

// noise is n bytes that can't be compressed.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewPCG(1, 2)
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b
}

// writeContent makes a file of so many bytes, a multiple of 1 MiB, with content on all its pages, on the disk.
func writeContent(name string, size int64) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make a store: %w", err)
	}
	defer func() {
		if e := f.Close(); err == nil && e != nil {
			err = fmt.Errorf("make a store: %w", e)
		}
	}()
	b := noise(1 << 20)
	for at := int64(0); at < size; at += int64(len(b)) {
		stamp(b, uint64(at/pageBytes))
		if _, err := f.Write(b); err != nil {
			return fmt.Errorf("fill a store: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("fill a store: %w", err)
	}
	return nil
}
