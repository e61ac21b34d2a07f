package sim

import (
	"bytes"
	"errors"
	"io"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// logDisk is what the server's log is on.
func (s *server) logDisk() disk.FS {
	if s.w.o.Flaw == TrustCache {
		return lazyDisk{s.disk}
	}
	return s.disk
}

// lazyDisk passes over writes that change nothing of what is shown: so nothing is written once more that a failed sync
// did not bring to the disk.
type lazyDisk struct{ disk.FS }

// Open implements disk.FS.
func (d lazyDisk) Open(name string, flags disk.Flags) (disk.File, error) {
	f, err := d.FS.Open(name, flags)
	if err != nil {
		return nil, err
	}
	return lazyFile{f}, nil
}

type lazyFile struct{ disk.File }

// WriteAt implements disk.File.
func (f lazyFile) WriteAt(p []byte, off int64) (int, error) {
	was := make([]byte, len(p))
	if _, err := f.ReadAt(was, off); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	} else if err == nil && bytes.Equal(was, p) {
		return len(p), nil
	}
	return f.File.WriteAt(p, off)
}
