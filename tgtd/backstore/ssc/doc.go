// Package ssc is the backing store of tapes: one file is one cartridge, in the format of tgt's images,
// which tgtimg makes and lists. A Tape is the cartridge in a drive: it has a position and moves.
//
// # The format
//
// Numbers are big-endian, except the checksum. Every object on the tape has a header of 48 bytes:
//
//	 0  CRC-32C of the other 44 bytes (little-endian)
//	 4  bytes on the medium (4)         8  bytes of the block (4)
//	12  kind (4): 2 data, 16 begin of tape, 32 end of data, 64 filemark
//	16  number (8): 0 is the begin of tape, 1 the first object
//	24  offset of the object before (8)    32  its own offset (8)    40  offset of the next (8)
//
// The begin of tape is at offset 0; its size field is the capacity in MiB. At 48 follows the medium memory of
// 1104 bytes (layout in memory.go), at 1152 the first object. The data of a block follow its header. The end
// of data names itself as the next.
//
// # What a crash leaves
//
// A block replaces the end of data in two steps: its data and a new end of data behind them are written
// first, then its header over the old end of data. A daemon that dies in between leaves the old end.
// Writing in the middle of a tape first ends the tape there and cuts the file, so that what is left of an
// overwritten block is never read as one. Nothing is on stable storage before Sync returns, which WRITE
// FILEMARKS without IMMED, REWIND, unloading and closing call: that is the buffered mode that the drive
// announces. After a loss of power, what was written since the last Sync may be missing or read as damage;
// what was synced is not touched, since only the header at its end is ever written again, with what it was.
package ssc
