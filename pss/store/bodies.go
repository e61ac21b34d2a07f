package store

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// Body tells where the log has put the blocks at the end of an entry: each where it belongs in its chunk.
type Body struct {
	File  string // name of a file of ChunkSize bytes in the store's FS; what the log wrote there is durable
	Block int    // of the chunk, that the first of them belongs to
	At    int    // offset in the entry of the first of them, in bytes
}

// Bodies is the log's side of writing data once. A chunk whose blocks all lie in one body is not written: the body gets
// the chunk's name, beside its own, which the log needs until the entries in it are recycled.
type Bodies interface {
	// Body says where the blocks at the end of an entry lie, if they do in a body.
	Body(index uint64) (Body, bool)
	// Superseded says that a checkpoint holds what the entries up to an index led to. Bodies of these may be
	// chunk files now, and change.
	Superseded(index uint64)
	// Spare offers a file that was a chunk's and is no one's now, to be a body. If it reports false the caller removes it.
	Spare(name string) bool
}

// Names of files in the store's folder that mean nothing after a crash: Open removes them.
const (
	spareName = "spare-" // and a number: what the chunk's file was before a body took its name
	adoptName = "adopt-" // and a number: a body that is about to be a chunk file
)

// bodyOf finds the body that holds a chunk as the change leaves it: all blocks of it, and each where it belongs.
func (w *chunkWriter) bodyOf(c *chunkChange) (name string, whole bool) {
	if w.s.o.Bodies == nil || w.s.noLinks || w.again || len(c.blocks) != BlocksPerChunk {
		return "", false
	}
	var body Body
	index := uint64(0) // of the entry that body tells of
	for i := range c.blocks {
		b := &c.blocks[i]
		if b.kind != Data || b.src == inline {
			return "", false
		}
		if b.index != index {
			next, there := w.s.o.Bodies.Body(b.index)
			if !there || index != 0 && next.File != body.File {
				return "", false
			}
			body, index = next, b.index
		}
		if int(b.src) != body.At+(int(b.number)-body.Block)*BlockSize {
			return "", false
		}
	}
	return body.File, true
}

// adopt makes a body the file of a chunk. It reports false if the file system can't give a file a second name.
//
// An attempt that is not the first one must not do so: the chunk's file may be the body already, and would be offered
// as a spare. It writes the same bytes to it instead, as Open does after a crash.
func (w *chunkWriter) adopt(o *object, c *chunkChange, body string) (bool, error) {
	s := w.s
	number := s.adopted.Add(1)
	next, spare := s.inDir(fmt.Sprintf("%s%d", adoptName, number)), s.inDir(fmt.Sprintf("%s%d", spareName, number))
	chunk := chunkFile(o.folder, c.chunk)
	if err := s.fs.Link(body, next); errors.Is(err, disk.ErrNoLink) {
		s.noLinks = true
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("linking %s: %w", body, err)
	}
	key := fileKey{object: o.number, number: c.chunk, kind: fileChunk}
	s.files.remove(key)
	w.dirs[chunkFolder(o.folder, uint16(c.chunk/chunksPerDir))] = struct{}{}
	w.dirs[s.o.Dir] = struct{}{}
	if err := s.fs.Rename(chunk, spare); err == nil {
		w.spares = append(w.spares, spare)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("replacing %s: %w", chunk, err)
	}
	if err := s.fs.Rename(next, chunk); err != nil {
		return false, fmt.Errorf("replacing %s: %w", chunk, err)
	}
	_, err := w.file(o, key) // synced with the others: the checkpoint is going to rely on it
	return err == nil, err
}

// Adopted is how many chunks have become of bodies since Open.
func (s *Store) Adopted() uint64 { return s.adopted.Load() }

// giveSpares gives away the files that chunks had before bodies took their names. The checkpoint and the names have to be
// durable: a file that is written to again must not come back as a chunk's.
func (s *Store) giveSpares(spares []string) error {
	for _, name := range spares {
		if s.o.Bodies.Spare(name) {
			continue
		}
		if err := s.fs.Remove(name); err != nil {
			return fmt.Errorf("removing %s: %w", name, err)
		}
	}
	return nil
}

// sweepBodies removes what a process before this one left of files that were to change their names. Later they may be the log's.
func (s *Store) sweepBodies() error {
	list, err := s.fs.ReadDir(s.o.Dir)
	if err != nil {
		return fmt.Errorf("listing %s: %w", s.o.Dir, err)
	}
	for _, e := range list {
		if e.Dir || !strings.HasPrefix(e.Name, spareName) && !strings.HasPrefix(e.Name, adoptName) {
			continue
		}
		if err := removeFile(s.fs, s.inDir(e.Name)); err != nil {
			return err
		}
	}
	return nil
}
