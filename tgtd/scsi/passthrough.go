package scsi

import (
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// A unit that is a real device: commands go to it as they came, and its answers come back. REPORT LUNS is
// answered here, since the numbers are the target's, and so is a command for a unit that does not exist.

// passthroughTable sends every operation code but that of REPORT LUNS to the device.
var passthroughTable = newTable(sorted(append(shared(0xa0), passthroughRows()...)))

func passthroughRows() []command {
	var rows []command
	for op := range 256 {
		if op != opReportLUNs {
			rows = append(rows, command{op: byte(op), service: none, name: "(passed through)", handler: passThrough})
		}
	}
	return rows
}

// passThrough has a worker give the command to the device. Data goes one way.
func passThrough(t *task) outcome {
	c := t.command
	if t.medium == nil {
		return t.check(mediumNotPresent)
	}
	if c.InBytes > 0 && c.OutBytes > 0 {
		return t.check(invalidFieldInCDB)
	}
	if c.InBytes > 0 {
		if t.data = t.allocate(int64(c.InBytes)); t.data == nil {
			return finished
		}
	}
	return t.later(func(t *task) {
		device, ok := t.medium.store.(*worker).Store.(backstore.Device)
		if !ok {
			t.check(manualIntervention)
			return
		}
		r := backstore.DeviceCommand{CDB: c.CDB[:cdbLength(c.CDB)], Out: c.DataOut, In: t.data}
		if err := device.Execute(&r); err != nil {
			t.check(hardwareError)
			return
		}
		t.status, t.sense, t.moved = sam.Status(r.Status), r.Sense, uint64(r.Moved)
		t.dataIn = t.data[:min(r.Moved, len(t.data))]
		if t.status == sam.CheckCondition && len(t.sense) == 0 {
			t.check(hardwareError)
		}
	})
}

// hardwareError says that the device or its host adapter did not answer.
const hardwareError senseCode = 0x044400

// cdbLength is the length of a CDB by its operation code (SPC-4).
func cdbLength(cdb []byte) int {
	n := 16
	switch cdb[0] >> 5 {
	case 0:
		n = 6
	case 1, 2:
		n = 10
	case 3:
		n = len(cdb)
	case 5:
		n = 12
	}
	return min(n, len(cdb))
}
