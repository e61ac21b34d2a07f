// Package disk is the only package of the storage service that touches files. It offers them
// behind two small interfaces, FS and File, of which there are two: Dir, a folder of the real file
// system, and Mem, a disk in memory that can lose what was not synced, tear writes, return errors,
// fill up and flip bits, so that every crash and fault is a test. Names are slash-separated and
// relative to the root; no name leaves it.
package disk

import (
	"errors"
	"io"
)

// Flags says how a file is opened. Without Create the file must exist.
type Flags uint8

// The flags of FS.Open.
const (
	Create Flags = 1 << iota // make the file if it is not there
	Direct                   // bypass the page cache where the file system can; offsets, lengths and buffers are then multiples of Align
)

// Align is the alignment, in bytes, of offset, length and memory that a file opened with Direct asks for.
const Align = 4096

// ErrNoSpace reports that the disk is full: nothing of the failed write can be relied upon.
var ErrNoSpace = errors.New("no space left on the disk")

// ErrNoLink reports that a file can't have both names.
var ErrNoLink = errors.New("the file can't have a second name there")

// ErrCrashed is what every call on a Mem returns after the simulated machine lost power.
var ErrCrashed = errors.New("the simulated machine is down")

// Entry is one name in a folder.
type Entry struct {
	Name  string
	Dir   bool
	Bytes int64
}

// FS is a folder tree. Errors satisfy errors.Is with fs.ErrNotExist, fs.ErrExist and ErrNoSpace.
// A created, linked, renamed or removed name is durable only after SyncDir of its folder.
type FS interface {
	Open(name string, flags Flags) (File, error)
	MkdirAll(name string) error
	Rename(from, to string) error
	// Link gives the file from a second name, to, which must not exist. Where the file system can't, because it has
	// no links or the folders lie on two devices, the error satisfies errors.Is with ErrNoLink.
	Link(from, to string) error
	Remove(name string) error
	RemoveAll(name string) error
	ReadDir(name string) ([]Entry, error) // sorted by name
	SyncDir(name string) error
}

// Spacer is offered by an FS that knows how much room there is.
type Spacer interface {
	// Space returns the bytes that can still be written, and the size of the disk in bytes.
	Space() (free, total int64, err error)
}

// File is an open file. All calls may be made from several goroutines at once.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes everything written so far durable, with what is needed to read it back (fdatasync).
	// After an error the state of what was written is unknown; the caller must stop using the file.
	Sync() error
	// Truncate sets the size in bytes.
	Truncate(size int64) error
	// Allocate reserves space for [off, off+n) without changing what is read there, extending the file.
	Allocate(off, n int64) error
	// PunchHole frees the space of [off, off+n), which then reads as zeros; the size stays.
	PunchHole(off, n int64) error
	Size() (int64, error)
	Close() error
}
