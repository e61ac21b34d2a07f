package backstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// Keeping says whether a store keeps the state of its unit, its reservations above all.
type Keeping uint8

// The ways of keeping. A store that keeps is a StateKeeper.
const (
	KeepsNothing  Keeping = iota
	KeepsOnDemand         // what the initiator asks to survive a loss of power (APTPL)
	KeepsAll              // every change, before it is acknowledged
)

// MaxStateBytes bounds a unit's state; SaveState refuses more.
const MaxStateBytes = 64 << 10

// ErrStateChanged says that somebody else has changed the unit's state since it was loaded. SaveState has saved
// nothing then. A request of a shared medium had no effect, and its submitter has to load the state, decide
// again whether the request may be made, and submit it anew.
var ErrStateChanged = errors.New("the state of the unit was changed by another target")

// StateKeeper is a store that keeps a small value for its unit: what outlives the daemon, and what all
// daemons have in common that serve the medium (Info.Shared). One call at a time is made.
type StateKeeper interface {
	Store
	// LoadState returns the state and its version; nil and 0 when none was ever saved. Requests that are
	// submitted with this version in IO.State take effect only while nobody has changed the state.
	LoadState(ctx context.Context) (value []byte, version uint64, err error)
	// SaveState replaces the state if it still has the version ifVersion, and returns the new version, which
	// is then the one that requests have to carry. After ErrStateChanged, and after an error that leaves open
	// whether the state was saved, it has to be loaded again.
	SaveState(ctx context.Context, value []byte, ifVersion uint64) (version uint64, err error)
}

// ErrStateDamaged says that a state file is not what was written.
var ErrStateDamaged = errors.New("the file with the state of the unit is damaged")

// StateFile keeps the state of a unit in a file: the first part of a StateKeeper for stores on this machine.
//
//	"tgtstat\x01"  8 bytes
//	version        8 bytes, big endian
//	value
//	CRC32C of all that, 4 bytes, big endian
//
// A change is written to a new file, which is synced and renamed over the old one before the folder is synced: after
// a loss of power there is the old state or the new one.
type StateFile struct {
	path string
}

const stateMagic = "tgtstat\x01"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// NewStateFile returns the state file, in folder dir, of the medium at path. It returns nil without a folder in
// which files can be made: then no state is kept.
func NewStateFile(dir, medium string) *StateFile {
	if dir == "" {
		return nil
	}
	full, err := filepath.EvalSymlinks(medium)
	if err == nil {
		full, err = filepath.Abs(full)
	}
	if err != nil {
		return nil
	}
	probe, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return nil
	}
	probe.Close()
	os.Remove(probe.Name())
	sum := crc32.Checksum([]byte(full), castagnoli)
	name := filepath.Base(full)
	return &StateFile{filepath.Join(dir, fmt.Sprintf("%.100s-%08x.state", name, sum))}
}

// LoadState is that of a StateKeeper.
func (f *StateFile) LoadState(context.Context) ([]byte, uint64, error) {
	file, err := os.Open(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("load the state of a unit: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, MaxStateBytes+1024))
	if err != nil {
		return nil, 0, fmt.Errorf("load the state of a unit: %w", err)
	}
	value, version, ok := parseState(b)
	if !ok {
		return nil, 0, fmt.Errorf("%w: %s", ErrStateDamaged, f.path)
	}
	return value, version, nil
}

func parseState(b []byte) (value []byte, version uint64, ok bool) {
	n := len(b) - 4
	if n < 16 || n-16 > MaxStateBytes || string(b[:8]) != stateMagic ||
		crc32.Checksum(b[:n], castagnoli) != binary.BigEndian.Uint32(b[n:]) {
		return nil, 0, false
	}
	return b[16:n:n], binary.BigEndian.Uint64(b[8:]), true
}

func appendState(b, value []byte, version uint64) []byte {
	at := len(b)
	b = append(b, stateMagic...)
	b = binary.BigEndian.AppendUint64(b, version)
	b = append(b, value...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

// SaveState is that of a StateKeeper.
func (f *StateFile) SaveState(ctx context.Context, value []byte, ifVersion uint64) (uint64, error) {
	if len(value) > MaxStateBytes {
		return 0, fmt.Errorf("save the state of a unit: %d bytes are too many", len(value))
	}
	_, have, err := f.LoadState(ctx)
	if err != nil {
		return 0, err
	}
	if have != ifVersion {
		return 0, ErrStateChanged
	}
	if err := replaceFile(f.path, appendState(nil, value, have+1)); err != nil {
		return 0, fmt.Errorf("save the state of a unit: %w", err)
	}
	return have + 1, nil
}

// replaceFile puts a file in the place of another such that after a crash one of them is there, whole.
func replaceFile(path string, content []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-")
	if err != nil {
		return err
	}
	_, err = temporary.Write(content)
	if err == nil {
		err = temporary.Sync()
	}
	if err = errors.Join(err, temporary.Close()); err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
