package ssc

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// Name is the type's name for tgtadm --bstype.
const Name = "ssc"

// Type returns the store type for a backstore.Registry.
func Type() backstore.Type { return backstore.Type{Name: Name, Open: Open} }

// Store is a tape image as the medium of a unit. A tape has no blocks with addresses: who uses it takes the
// Tape, and Submit completes every request with errors.ErrUnsupported.
type Store struct {
	path     string
	image    image
	readOnly bool
	tape     *Tape
	damage   error
}

// image is a file whose Sync is fdatasync.
type image struct{ *os.File }

// Sync implements file.
func (i image) Sync() error {
	for {
		if err := unix.Fdatasync(int(i.Fd())); err != unix.EINTR {
			return err
		}
	}
}

// Open opens the image at o.Path for reading and writing, or for reading only when the system does not allow
// more. A file that is no image is taken too, as tgt does; Tape then says what is wrong with it. Options and
// flags are refused with backstore.ErrOption, and so is everything that is no regular file.
func Open(o backstore.Options) (backstore.Store, error) {
	if o.Options != "" || o.Sync || o.Direct {
		return nil, fmt.Errorf("open the tape image %q: %w: ssc takes neither options nor flags", o.Path, backstore.ErrOption)
	}
	info, err := os.Stat(o.Path) // before it is opened, which has effects on devices and waits at pipes
	if err != nil {
		return nil, fmt.Errorf("open the tape image: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open the tape image %q: %w: not a regular file", o.Path, backstore.ErrOption)
	}
	s := &Store{path: o.Path}
	f, err := os.OpenFile(o.Path, os.O_RDWR, 0)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
		s.readOnly = true
		f, err = os.Open(o.Path)
	}
	if err != nil {
		return nil, fmt.Errorf("open the tape image: %w", err)
	}
	s.image = image{f}
	s.tape, s.damage = load(s.image, s.readOnly)
	return s, nil
}

// Tape is the cartridge, or why the file is none. One goroutine may use it at a time.
func (s *Store) Tape() (*Tape, error) {
	if s.damage != nil {
		return nil, fmt.Errorf("%q: %w", s.path, s.damage)
	}
	return s.tape, nil
}

// Submit implements backstore.Store.
func (s *Store) Submit(io *backstore.IO) {
	io.Err = fmt.Errorf("%q: a tape has no addresses: %w", s.path, errors.ErrUnsupported)
	io.Done(io)
}

// Info implements backstore.Store. Bytes is the size of the file.
func (s *Store) Info() backstore.Info {
	i := backstore.Info{ReadOnly: s.readOnly}
	if info, err := s.image.Stat(); err == nil {
		i.Bytes = info.Size()
	}
	return i
}

// Close implements backstore.Store: it syncs what was written.
func (s *Store) Close() error {
	var err error
	if s.tape != nil {
		err = s.tape.close()
	} else {
		err = s.image.Close()
	}
	if err != nil {
		return fmt.Errorf("close the tape image %q: %w", s.path, err)
	}
	return nil
}
