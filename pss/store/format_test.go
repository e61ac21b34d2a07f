package store

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// golden compares bytes with those in testdata. Formats are on disks out there: if one of these
// fails, what is needed is another version, not -rewrite.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if rewrite := flag.Lookup("rewrite"); rewrite != nil && rewrite.Value.String() == "true" {
		if err := os.WriteFile(name, []byte(hex.Dump(got)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if hex.Dump(got) != string(want) {
		t.Errorf("%s: the format changed; now it is\n%s", name, hex.Dump(got))
	}
}

// contents reads a file as a whole.
func contents(t testing.TB, fs disk.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name, 0)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if err := errors.Join(readFull(f, b, 0), f.Close()); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFormats(t *testing.T) {
	r := newRig(t)
	r.do("create", 1, 0, 0)
	r.do("write", 1, 0, 2*BlockSize)
	r.flush()
	r.do("create", 0xabc, 0, 0)
	r.do("write", 0xabc, 5*BlockSize, 2*BlockSize) // in the log
	r.do("zero", 0xabc, 9*BlockSize, BlockSize)
	r.do("keep", 0xabc, 10*BlockSize, BlockSize)
	r.do("write", 0xabc, 0x123456*ChunkSize, BlockSize)
	r.do("keep", 0xabc, 0x123456*ChunkSize, ChunkSize)
	r.do("zero", 1, 0, ChunkSize)
	r.flush()
	dir := r.s.inDir(dataName) + "/0000000000000abc-vol_2748"
	golden(t, "checkpoint.hex", contents(t, r.mem, r.s.inDir(checkpointName)))
	golden(t, "index.hex", contents(t, r.mem, dir+"/index")[:64])
	golden(t, "pages.hex", contents(t, r.mem, dir+"/pages")[:64])
	golden(t, "sums.hex", contents(t, r.mem, dir+"/00/00/sums")[:12*recordSize])
	if b := contents(t, r.mem, dir+"/00/00/00"); !bytes.Equal(b[5*BlockSize:7*BlockSize], r.log[3].payload) {
		t.Error("a chunk file is not plain bytes")
	}
	var img Image
	if err := r.s.Export(Newest, 0xabc, 0, &Blocks{}, &img); err != nil {
		t.Fatal(err)
	}
	golden(t, "image.hex", img.Append(nil)[:imageHead+12*recordSize])

	// The sections that are not in this checkpoint: meta in pieces, inline data, staged chunks.
	fs := disk.NewMem()
	f, err := fs.Open("x", disk.Create)
	if err != nil {
		t.Fatal(err)
	}
	w := newSectionWriter(f, nil)
	w.head(&checkpoint{seq: 1, index: 2, term: 3, meta: []byte("m"), objects: []objectEntry{{Object{4, "l", 1}, 5, 6}}})
	w.change(&chunkChange{object: 4, chunk: 7, flags: changeStaged | changeEmpty | changeFile, index: 8})
	w.change(&chunkChange{object: 4, chunk: 9, flags: changeFile, index: 10, blocks: []blockChange{
		{11, cell{data: new([BlockSize]byte), sum: zeroSum, kind: Data, src: inline, index: 10}}}})
	if err := w.finish(); err != nil {
		t.Fatal(err)
	}
	golden(t, "sections.hex", contents(t, fs, "x"))
}

// TestDecodeGolden shows that what this version and those before wrote once can be read.
func TestDecodeGolden(t *testing.T) {
	for _, name := range []string{"checkpoint-1.hex", "checkpoint.hex"} {
		var changes, sums int
		c := decodeGolden(t, name, func(c *chunkChange) error {
			changes++
			for _, sum := range c.sums {
				if sum != 0 {
					sums++
				}
			}
			return nil
		})
		wantSums := 2 * pagesPerChunk // of two chunks with a file
		if name == "checkpoint-1.hex" {
			wantSums = 0
		}
		if c.seq != 2 || c.index != 9 || c.term != 7 || string(c.meta) != "meta 9" || len(c.objects) != 2 || changes != 3 ||
			sums != wantSums {
			t.Errorf("%s: %+v with %d changes and %d sums", name, c, changes, sums)
		}
	}
	for _, name := range []string{"sections-1.hex", "sections.hex"} {
		var staged, blocks int
		decodeGolden(t, name, func(c *chunkChange) error {
			if c.flags&changeStaged != 0 && c.index == 8 {
				staged++
			}
			blocks += len(c.blocks)
			return nil
		})
		if staged != 1 || blocks != 1 {
			t.Errorf("%s: %d staged chunks and %d blocks", name, staged, blocks)
		}
	}
}

func decodeGolden(t *testing.T, name string, change func(*chunkChange) error) *checkpoint {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	b := undump(t, text)
	c, err := decodeCheckpoint(bytes.NewReader(b), int64(len(b)), change)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return c
}

// undump reverses hex.Dump.
func undump(t testing.TB, text []byte) (b []byte) {
	for line := range bytes.Lines(text) {
		if len(line) < 60 {
			continue
		}
		x, err := hex.DecodeString(string(bytes.ReplaceAll(bytes.TrimSpace(line[9:59]), []byte(" "), nil)))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, x...)
	}
	return b
}

// TestCheckpointSizes takes large tables and meta through the format.
func TestCheckpointSizes(t *testing.T) {
	fs := disk.NewMem()
	c := &checkpoint{seq: 1, index: 2, term: 3, meta: bytes.Repeat([]byte("meta"), 200<<10)}
	for i := range uint64(20000) {
		c.objects = append(c.objects, objectEntry{Object{i, "a-label-of-some-length", i}, uint32(i), 6})
	}
	f, err := fs.Open("x", disk.Create)
	if err != nil {
		t.Fatal(err)
	}
	w := newSectionWriter(f, nil)
	w.head(c)
	if err := w.finish(); err != nil {
		t.Fatal(err)
	}
	b := contents(t, fs, "x")
	got, err := decodeCheckpoint(bytes.NewReader(b), int64(len(b)), func(*chunkChange) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.meta, c.meta) || len(got.objects) != len(c.objects) || got.objects[19999] != c.objects[19999] {
		t.Error("not what was written")
	}
	for _, cut := range []int{0, 7, 15, 16, 20, 70, len(b) / 2, len(b) - 1} {
		if _, err := decodeCheckpoint(bytes.NewReader(b[:cut]), int64(cut), func(*chunkChange) error { return nil }); !errors.Is(err, errFormat) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
}

func FuzzCheckpoint(f *testing.F) {
	for _, name := range []string{"testdata/checkpoint.hex", "testdata/sections.hex", "testdata/checkpoint-1.hex", "testdata/sections-1.hex"} {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(undump(f, text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := disk.NewMem()
		file, err := fs.Open("x", disk.Create)
		if err != nil {
			t.Fatal(err)
		}
		c, err := decodeCheckpoint(bytes.NewReader(b), int64(len(b)), nil)
		if err != nil {
			if !errors.Is(err, errFormat) {
				t.Fatal(err)
			}
			return
		}
		w := newSectionWriter(file, nil)
		w.head(c)
		// What was decoded encodes to something that decodes to the same.
		if _, err := decodeCheckpoint(bytes.NewReader(b), int64(len(b)), func(c *chunkChange) error {
			for i := range c.blocks {
				if b := &c.blocks[i]; b.kind == Data && b.data == nil { // it is in the log
					b.data = new([BlockSize]byte)
				}
			}
			w.change(c)
			return w.err
		}); err != nil {
			return
		}
		if err := w.finish(); err != nil {
			t.Fatal(err)
		}
		again := contents(t, fs, "x")
		if _, err := decodeCheckpoint(bytes.NewReader(again), int64(len(again)), func(*chunkChange) error { return nil }); err != nil {
			t.Fatalf("encoded again: %v", err)
		}
	})
}

// FuzzSections gives the decoder sections whose checksums are right.
func FuzzSections(f *testing.F) {
	f.Add(byte(sectionChunk), make([]byte, chunkHeadSize+listedSize+BlockSize))
	f.Add(byte(sectionStaged), make([]byte, stagedSize))
	f.Add(byte(sectionObjects), make([]byte, 25))
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		var c chunkChange
		if err := c.decode(uint32(kind), payload, formatVersion); err != nil && !errors.Is(err, errFormat) {
			t.Fatal(err)
		}
		for _, b := range c.blocks {
			if b.number >= BlocksPerChunk || b.src < inline {
				t.Fatalf("%+v", b)
			}
		}
		var cp checkpoint
		if err := cp.decodeObjects(payload, 10); err != nil && !errors.Is(err, errFormat) {
			t.Fatal(err)
		}
		if len(cp.objects) > 10 {
			t.Fatal("more objects than announced")
		}
	})
}

func FuzzImage(f *testing.F) {
	img := Image{Object: 1, Chunk: 2, Index: 3, File: true}
	for i := range img.Records {
		img.Records[i] = Record{Kind: Hole}
	}
	f.Add(img.Append(nil))
	img.Records[5] = Record{Sum: zeroSum, Kind: Data, Index: 3}
	img.Has.Add(5)
	img.Data = make([]byte, BlockSize)
	f.Add(img.Append(nil))
	img.File = false
	f.Add(img.Append(nil)[:imageHead])
	f.Fuzz(func(t *testing.T, b []byte) {
		var img Image
		if err := img.Parse(b); err != nil {
			if !errors.Is(err, ErrImage) {
				t.Fatal(err)
			}
			return
		}
		if again := img.Append(nil); !bytes.Equal(again, b) {
			t.Fatal("encoded again it is something else")
		}
	})
}

func FuzzIndexPage(f *testing.F) {
	var x folderIndex
	x.entries[3], x.entries[4] = 7, 8|hasFile
	var p [pageSize]byte
	x.encode(&p, 1, 2)
	f.Add(p[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		var p, again [pageSize]byte
		copy(p[:], b)
		var x, y folderIndex
		if bad, _, _ := x.decode(&p, 1, 2); bad >= 0 {
			return
		}
		x.encode(&again, 1, 2)
		if bad, _, _ := y.decode(&again, 1, 2); bad >= 0 || x != y {
			t.Fatal("encoded again it is something else")
		}
	})
}
