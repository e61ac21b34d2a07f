package disk

import (
	"fmt"
	"io/fs"
	"path"
)

// MakeFolder makes the folder name with its parents and makes them all durable: it syncs every
// folder from the root down to name's parent, and name itself.
func MakeFolder(f FS, name string) error {
	if err := f.MkdirAll(name); err != nil {
		return err
	}
	for d := name; ; d = path.Dir(d) {
		if err := f.SyncDir(d); err != nil {
			return err
		}
		if d == "." {
			return nil
		}
	}
}

// checkName rejects names that fs.ValidPath does not allow, so that none leaves the root, and
// the root itself where it makes no sense.
func checkName(op, name string, rootAllowed bool) error {
	if !fs.ValidPath(name) || (name == "." && !rootAllowed) {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return nil
}

// checkRange rejects a negative offset or length.
func checkRange(op, name string, off, n int64) error {
	if off < 0 || n < 0 || off+n < off {
		err := fmt.Errorf("range of %d bytes at offset %d: %w", n, off, fs.ErrInvalid)
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}
