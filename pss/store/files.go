package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// The names in the store's folder.
const (
	checkpointName = "checkpoint"
	preparedName   = "prepared"
	preparingName  = "prepared.tmp" // prepared while it is being written
	dataName       = "data"
	stagingName    = "staging"
	discardedName  = "discarded-" // and a number: what was staged in vain
	indexName      = "index"
	sumsName       = "sums"
	pagesName      = "pages" // the sums of the pages of sums files, see index.go
)

// maxLabel is how many bytes of an object's label go into the name of its folder.
const maxLabel = 64

// sanitise makes a label fit for the name of a folder.
func sanitise(label string) string {
	b := []byte(label[:min(len(label), maxLabel)])
	for i, c := range b {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			b[i] = '_'
		}
	}
	return string(b)
}

// objectFolder is the name of an object's folder in the data folder.
func objectFolder(object uint64, label string) string { return fmt.Sprintf("%016x-%s", object, label) }

// chunkFolder is the folder of a chunk's file and its sums, below the object's.
func chunkFolder(object string, folder uint16) string {
	return fmt.Sprintf("%s/%02x/%02x", object, folder>>8, folder&0xff)
}

// chunkFile is the name of a chunk's file, below the object's folder.
func chunkFile(object string, chunk uint32) string {
	return fmt.Sprintf("%s/%02x/%02x/%02x", object, chunk>>16, chunk>>8&0xff, chunk&0xff)
}

// fileKey stands for an open file.
type fileKey struct {
	object uint64
	number uint32 // chunk for a chunk file, chunk/chunksPerDir for sums, 0 for the index and the sums of its pages
	kind   fileKind
}

type fileKind uint8

const (
	fileChunk fileKind = iota
	fileSums
	fileIndex
	filePages
)

func (k fileKey) hash() uint64 { return mix(k.object<<34 ^ uint64(k.number)<<2 ^ uint64(k.kind)) }

// name is the file's name.
func (k fileKey) name(o *object) string {
	switch k.kind {
	case fileChunk:
		return chunkFile(o.folder, k.number)
	case fileSums:
		return chunkFolder(o.folder, uint16(k.number)) + "/" + sumsName
	case filePages:
		return o.folder + "/" + pagesName
	}
	return o.folder + "/" + indexName
}

// openFile is a file that is kept open.
type openFile struct {
	mu sync.Mutex
	f  disk.File // nil until opened
}

type fileSlot = slot[fileKey, openFile]

// close is called for files that nobody uses. What was written to them was synced before, so that
// an error says nothing of interest.
func (f *openFile) close() {
	if f.f != nil {
		f.f.Close()
		f.f = nil
	}
}

// open pins an open file; unpin it with s.files.unpin. Without create the error for a file that is
// not there is fs.ErrNotExist.
func (s *Store) open(o *object, k fileKey, flags disk.Flags) (*fileSlot, error) {
	sl := s.files.pin(k)
	sl.value.mu.Lock()
	defer sl.value.mu.Unlock()
	if sl.value.f == nil {
		f, err := s.fs.Open(k.name(o), flags)
		if err != nil {
			s.files.unpin(sl)
			return nil, fmt.Errorf("opening %s: %w", k.name(o), err)
		}
		sl.value.f = f
	}
	return sl, nil
}

// readFull reads p at off; what lies behind the end of the file reads as zeros.
func readFull(f io.ReaderAt, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		return nil
	}
	return err
}

// inDir is the name of something in the store's folder.
func (s *Store) inDir(name string) string { return path.Join(s.o.Dir, name) }

// removeFile removes a file that may not be there.
func removeFile(f disk.FS, name string) error {
	if err := f.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return nil
}
