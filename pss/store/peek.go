package store

import (
	"errors"
	"io/fs"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// Checkpointed is the index of the checkpoint in the folder dir of fsys, 0 if there is none: the entries up to it
// are not needed to open the store. It changes nothing. Damage is a *DamageError.
func Checkpointed(fsys disk.FS, dir string) (uint64, error) {
	s := &Store{fs: fsys, o: Options{Dir: dir}}
	c, err := s.readCheckpoint(s.inDir(checkpointName), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return c.index, nil
}
