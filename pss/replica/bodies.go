package replica

import (
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// Data of large writes is written once: the log puts it into a file with the shape of the chunk it belongs to, and a
// checkpoint makes that file the chunk's if it has all of it. What comes in other shapes is written twice, as ever.
const (
	// maxBodies is how many such files the log keeps ready. One checkpoint gives free what the next one needs.
	maxBodies = 32
	// minBodyBytes of data are worth a sync of a second file.
	minBodyBytes = 128 << 10
)

// homeOf says where the data of an entry belongs for good, if it is worth asking.
func homeOf(data []byte) log.Home {
	if len(data) < minBodyBytes {
		return log.Home{}
	}
	o, err := op.Parse(data)
	if err != nil || o.Code != op.Write || o.Offset%op.BlockSize != 0 || len(o.Payload)%op.BlockSize != 0 ||
		len(o.Payload) < minBodyBytes || o.Offset%store.ChunkSize+o.Length > store.ChunkSize {
		return log.Home{}
	}
	return log.Home{Object: o.Object, Chunk: uint32(o.Offset / store.ChunkSize),
		Block: uint16(o.Offset % store.ChunkSize / op.BlockSize), Blocks: uint16(len(o.Payload) / op.BlockSize), Sums: o.Args}
}

// bodies shows the log's bodies to the store.
type bodies struct{ log *log.Log }

func (b bodies) Body(index uint64) (store.Body, bool) {
	at, there := b.log.Body(index)
	return store.Body(at), there
}

func (b bodies) Superseded(index uint64) { b.log.Supersede(index) }

func (b bodies) Spare(name string) bool { return b.log.Spare(name) }
