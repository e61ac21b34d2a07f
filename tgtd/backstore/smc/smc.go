// Package smc is the backing store of media changers. A changer's elements are parameters, and its cartridges
// files of their own, so nothing is kept in the file; tgt wants one, and so it is opened as package rdwr does.
package smc

import (
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/rdwr"
)

// Name is the type's name for tgtadm --bstype.
const Name = "smc"

// Type returns the store type for a backstore.Registry.
func Type() backstore.Type { return backstore.Type{Name: Name, Open: Open} }

// Open opens the file at o.Path. It takes the flags of rdwr and no options.
func Open(o backstore.Options) (backstore.Store, error) {
	s, err := rdwr.Open(o)
	if err != nil {
		return nil, fmt.Errorf("smc: %w", err)
	}
	return s, nil
}
