package rig

import (
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest/port"
)

// Host is where everything listens.
const Host = port.Host

// portTries is how often ports for a whole cell are looked for.
const portTries = 200

// FreePort returns a TCP port on which nobody listens: the wanted one if it can be had, else another.
func FreePort(wanted int) (int, error) {
	if port.IsFree("tcp", wanted) {
		return wanted, nil
	}
	ports, err := port.Free(1)
	if err != nil {
		return 0, err
	}
	return ports[0], nil
}

// cellPorts returns the UDP and the TCP port of server 0; those of the others follow as in the manual (M7).
// The manual's own ports are used if all of them are free.
func cellPorts(ids []cell.ID) (udp, tcp int, err error) {
	udp = cell.FirstUDP
	for range portTries {
		tcp = udp + cell.FirstTCP - cell.FirstUDP
		free := true
		for _, id := range ids {
			free = free && port.IsFree("udp", udp+int(id)) && port.IsFree("tcp", tcp+int(id))
		}
		if free {
			return udp, tcp, nil
		}
		udp = port.Random()
	}
	return 0, 0, fmt.Errorf("%w: for %d servers in a row", port.ErrNone, len(ids))
}
