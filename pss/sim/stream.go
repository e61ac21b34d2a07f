package sim

import (
	"errors"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// With Options.Streams clients also write a chunk of the file whole, in order and in long pieces, so that the logs put it
// into bodies and checkpoints adopt these; and they write over the last block of a piece, in place. All sectors of a piece
// but those of its last block have one value. So the history knows two registers of each: one for its beginning, one
// for its last block.
const (
	streamsOneIn = 40 // runs: these take ten times as long
	streamChunk  = 2
	pieceSectors = op.MaxPayload / sectorBytes
	pieceCount   = store.ChunkSize / op.MaxPayload
	registers    = sectorCount + 2*pieceCount // of the history

	// What a server of such a run has room for: the streams of all its clients between two checkpoints.
	streamCheckpoint = 6 << 20
	streamOverlay    = 24 << 20
	streamBodies     = 4
)

// part says which part of a piece a request is about.
type part uint8

const (
	noPiece part = iota // it is about the sectors that are registers each
	beginning
	lastBlock
	wholePiece
)

// covers returns the registers that a request reads or writes.
func (r *request) covers() (list []int) {
	switch r.part {
	case noPiece:
		for i := range r.count {
			list = append(list, r.sector+i)
		}
		return list
	case beginning:
		return []int{sectorCount + 2*r.piece}
	case lastBlock:
		return []int{sectorCount + 2*r.piece + 1}
	}
	return []int{sectorCount + 2*r.piece, sectorCount + 2*r.piece + 1}
}

// chooseStream chooses a request about the streamed chunk, or none.
func (c *client) chooseStream() *request {
	if len(c.pieces) > 0 {
		r := c.pieces[0]
		c.pieces = c.pieces[1:]
		return r
	}
	rng := c.w.rng
	if !c.w.o.Streams || !c.w.chance(3) {
		return nil
	}
	r := &request{piece: rng.IntN(pieceCount), part: beginning, base: streamChunk * store.ChunkSize / sectorBytes, count: blockSectors}
	first := r.piece * pieceSectors
	switch rng.IntN(4) {
	case 0, 1: // read a block
		if !c.w.mayRead() {
			return nil
		}
		if r.sector = first + rng.IntN(pieceSectors-2*blockSectors); rng.IntN(2) == 0 {
			r.part, r.sector = lastBlock, first+pieceSectors-blockSectors
		}
		return r
	case 2:
		r.code, r.part, r.sector, r.value = op.Write, lastBlock, first+pieceSectors-blockSectors, c.nextValue()
	case 3:
		value := c.nextValue()
		for i := range pieceCount {
			c.pieces = append(c.pieces, &request{code: op.Write, base: r.base, sector: i * pieceSectors, count: pieceSectors,
				piece: i, part: wholePiece, value: value})
		}
		return c.chooseStream()
	}
	if c.reader {
		c.pieces = nil
		return nil
	}
	return r
}

// nextValue is one that no other request writes.
func (c *client) nextValue() uint64 {
	c.value++
	return c.value<<8 | uint64(c.id+1)
}

// limits are those of a server.
func (w *world) limits() (checkpoint, overlay int64, bodies int) {
	if w.o.Streams {
		return streamCheckpoint, streamOverlay, streamBodies
	}
	return simCheckpoint, simOverlay, 0
}

// prepare makes a log segment and bodies ready, as a server's upkeep does. What there is no room for now it makes later.
func (s *server) prepare() {
	if !s.w.o.Streams || s.log.Prepared() {
		return
	}
	s.onDisk(s.w.between(time.Millisecond, 30*time.Millisecond), func() {
		if err := s.log.Prepare(nil); err != nil && !errors.Is(err, disk.ErrNoSpace) {
			s.ended(err)
		}
	})
}
