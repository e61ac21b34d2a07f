// Package mmc is the backing store of CDs and DVDs: an image file, or an empty file that is a blank disc. It
// keeps bytes as package rdwr does; a blank one grows as it is written. What a disc is, package scsi knows.
package mmc

import (
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/rdwr"
)

// Name is the type's name for tgtadm --bstype.
const Name = "mmc"

// Type returns the store type for a backstore.Registry.
func Type() backstore.Type { return backstore.Type{Name: Name, Open: Open} }

// Open opens the image at o.Path, for reading only when the system does not allow more. It takes the flags of
// rdwr and no options.
func Open(o backstore.Options) (backstore.Store, error) {
	s, err := rdwr.Open(o)
	if err != nil {
		return nil, fmt.Errorf("mmc: %w", err)
	}
	return s, nil
}
