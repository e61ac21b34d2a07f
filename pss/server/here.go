package main

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// printLocal prints the id and the root of each server of the cell that lives on this machine, a line each, for
// scripts. Names that can't be resolved are told on stderr and left out.
func printLocal(conf *cell.Config, stdout, stderr io.Writer) error {
	local, warnings, err := conf.Local(context.Background(), cell.Netlink{}, net.DefaultResolver)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		fmt.Fprintln(stderr, "PFSserver:", w)
	}
	for _, s := range local {
		if _, err := fmt.Fprintln(stdout, s.ID, s.Root()); err != nil {
			return err
		}
	}
	return nil
}

// printRoot prints the root that server.conf gives a server.
func printRoot(conf *cell.Config, id string, stdout io.Writer) error {
	n, err := cell.ParseID(id)
	if err != nil {
		return usageError{err}
	}
	s, ok := conf.Server(n)
	if !ok {
		return fmt.Errorf("%s has no record of server %d", conf.File, n)
	}
	_, err = fmt.Fprintln(stdout, s.Root())
	return err
}
