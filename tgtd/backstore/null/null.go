// Package null is the backing store that keeps nothing: it reads zeros, accepts every change, and is
// always 1 TiB large. It completes every request inside Submit, so that what is measured on it is the
// rest of the path.
package null

import (
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// Name is the type's name for tgtadm --bstype.
const Name = "null"

// Bytes is the size of every null store.
const Bytes = 1 << 40

// Type returns the store type for a backstore.Registry.
func Type() backstore.Type { return backstore.Type{Name: Name, Open: Open} }

// Open returns a null store. The path is of no meaning; options and flags are refused with
// backstore.ErrOption.
func Open(o backstore.Options) (backstore.Store, error) {
	if o.Options != "" || o.Sync || o.Direct {
		return nil, fmt.Errorf("open null store: %w: it takes neither options nor flags", backstore.ErrOption)
	}
	return store{}, nil
}

type store struct{}

// Submit implements backstore.Store.
func (store) Submit(io *backstore.IO) {
	io.Err = nil
	switch io.Op {
	case backstore.Read:
		clear(io.Data)
	case backstore.CompareAndWrite:
		for i, b := range io.Data[:io.Length] {
			if b != 0 {
				io.Err, io.Miscompare = backstore.ErrMiscompare, int64(i)
				break
			}
		}
	case backstore.Status:
		io.Mapped, io.MappedLength = true, io.Length
	}
	io.Done(io)
}

// Info implements backstore.Store.
func (store) Info() backstore.Info {
	return backstore.Info{Bytes: Bytes, Ordered: true, Durable: true}
}

// Close implements backstore.Store.
func (store) Close() error { return nil }
