// Package aio is the backing store that tgt's users know as `aio`: a file or block device whose reads and writes
// go past the page cache (O_DIRECT), many at a time. In tgt the kernel's asynchronous I/O did that from one
// thread; here it is package rdwr with direct I/O, a bounded pool of workers (tgtd --nr_iothreads), which keeps
// as many requests with the disk, and also handles what direct I/O can't: requests whose size or memory is not
// aligned go through the page cache, which the kernel keeps coherent.
package aio

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/rdwr"
)

// Name is the type's name for tgtadm --bstype.
const Name = "aio"

// Type returns the store type for a backstore.Registry.
func Type() backstore.Type { return backstore.Type{Name: Name, Open: Open} }

// Open opens the file or block device at o.Path, for reading only when the system does not allow more. It takes
// neither options nor flags, as in tgt: they are refused with backstore.ErrOption. A file system without direct
// I/O is an error that says so.
func Open(o backstore.Options) (backstore.Store, error) {
	if o.Options != "" || o.Sync || o.Direct {
		return nil, fmt.Errorf("open %q: %w: aio takes neither options nor flags", o.Path, backstore.ErrOption)
	}
	o.Direct = true
	s, err := rdwr.Open(o)
	if errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("aio: the file system has no direct I/O (O_DIRECT): %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("aio: %w", err)
	}
	return s, nil
}
