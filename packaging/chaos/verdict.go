package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/check"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// checkpointTries is how often all servers are asked for a checkpoint at the same entry: ends of sessions come between.
const checkpointTries = 50

// shutDown has all servers put what they have applied onto their disks, at one entry, and stops them.
func (l *lab) shutDown(ctx context.Context) (index uint64, err error) {
	for range checkpointTries {
		if index, err = l.checkpoints(ctx); err != nil || index > 0 {
			break
		}
		wait(ctx, askAgain)
	}
	if err != nil {
		return 0, err
	}
	if index == 0 {
		return 0, errors.New("the servers did not come to rest at one entry")
	}
	for _, id := range l.cell.IDs() {
		p := l.cell.Server(id)
		if err := p.Signal(syscall.SIGTERM); err != nil {
			return 0, err
		}
		select {
		case <-p.Exited():
		case <-ctx.Done():
			return 0, fmt.Errorf("stop server %d: %w; %s", id, ctx.Err(), p.Tail(10))
		}
	}
	return index, nil
}

// checkpoints asks every server for one, and returns the entry if it was the same everywhere, else 0.
func (l *lab) checkpoints(ctx context.Context) (uint64, error) {
	var index uint64
	for i, id := range l.cell.IDs() {
		var r admin.CheckpointReply
		if err := l.ask(ctx, id, admin.MethodCheckpoint, &r); err != nil {
			return 0, fmt.Errorf("checkpoint of server %d: %w", id, err)
		}
		if i > 0 && r.Index != index {
			return 0, nil
		}
		index = r.Index
	}
	return index, nil
}

// compare checks the root of every stopped server, and that all hold the same bytes. It returns how many files and
// bytes were compared.
func compare(conf *cell.Config) (files int, bytes uint64, err error) {
	var first map[string]digest
	var firstID cell.ID
	for i, s := range conf.Servers {
		if err := checkRoot(s); err != nil {
			return 0, 0, err
		}
		all, err := digests(filepath.Join(s.Root(), "data"))
		if err != nil {
			return 0, 0, fmt.Errorf("server %d: %w", s.ID, err)
		}
		if i == 0 {
			first, firstID = all, s.ID
			continue
		}
		if err := differ(first, all); err != nil {
			return 0, 0, fmt.Errorf("servers %d and %d do not hold the same: %w", firstID, s.ID, err)
		}
	}
	for _, d := range first {
		bytes += d.bytes
	}
	return len(first), bytes, nil
}

func checkRoot(s cell.Server) error {
	root, err := disk.Dir(s.Root())
	if err != nil {
		return fmt.Errorf("check server %d: %w", s.ID, err)
	}
	r, err := check.Root(root, check.Options{})
	if err != nil {
		return fmt.Errorf("check server %d: %w", s.ID, err)
	}
	if !r.OK() {
		return fmt.Errorf("check server %d: %d findings: %v", s.ID, r.Harmful, r.Findings)
	}
	return nil
}

// digest is what a file holds, without the zeros at its end: how far a file was made longer is no content.
type digest struct {
	sum   [sha256.Size]byte
	bytes uint64
}

// digests are those of all chunk files below a folder, by their paths.
func digests(folder string) (map[string]digest, error) {
	all := make(map[string]digest)
	err := filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		// Indexes and records are judged by checkRoot; which entry wrote a block last is not what initiators read.
		if err != nil || !e.Type().IsRegular() || e.Name() == "index" || e.Name() == "sums" {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err == nil {
			all[name], err = digestOf(path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read all files: %w", err)
	}
	return all, nil
}

func digestOf(path string) (digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return digest{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return digest{}, err
	}
	b = bytes.TrimRight(b, "\x00")
	return digest{sha256.Sum256(b), uint64(len(b))}, nil
}

// differ compares two servers' files. A file of nothing but zeros is one that is not there.
func differ(a, b map[string]digest) error {
	names := make(map[string]bool)
	for _, m := range []map[string]digest{a, b} {
		for name := range m {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if x, y := a[name], b[name]; x.bytes != y.bytes || x.bytes > 0 && x.sum != y.sum {
			return fmt.Errorf("%s: %d bytes, %x… against %d bytes, %x…", name, x.bytes, x.sum[:4], y.bytes, y.sum[:4])
		}
	}
	return nil
}
